-- The arguments of the script, its constants, and exact arithmetic.
--
-- KEYS      Each is the hash of one caller: a field for each policy, and one for when it expires.
-- ARGV[1]   What is used, the fields of each key, and the operations. Several corrections may be of one field, and
--           one charge after them.
-- ARGV[2]   The windows of calendars: those that are about now by the caller's guess.
-- ARGV[3]   The penalties of refusals that are counted.
-- ARGV[4]   Tests only: the time, in microseconds.
-- ARGV[5]   Tests only: how many milliseconds longer than needed counts are kept.

local call, pack, parse = redis.call, struct.pack, struct.unpack

-- Key number, field number, algorithm, action, `first`, `amount`, and the quota: units, window, capacity. Units in
-- flight have other numbers instead: see their algorithm.
local OPERATION, ACTION = '<I2I2BBddddd', 5
-- The rest, which most charges do not have: the number of a second field or 0 (that of the penalty; where units are
-- given back, that of the key's last reset), and the charge's cost. Then, of a charge: 1 if the next charge stands
-- for it, or 2 if it only looks for a block; and 0. Of a correction: what was missing in a bucket right after the
-- charge, as whole units and a rest.
local REST = '<I2ddd'
local EXPIRES = 'expires'
local ENFORCED, PEEK, LEASE, GIVE_BACK, TAKE, RESET = 0, 2, 3, 4, 5, 6
local PENALIZE = 8
-- Added to the action of a charge that has the rest. Each correction has it.
local WITH_REST = 16

-- The first byte of an operation's reply. Or else nothing is done, and the caller has to tell the windows
-- of some calendars.
local FITS, REFUSED, NEEDS_WINDOWS = '\1', '\0', '\2'

-- Times and products are exact below this.
local EXACT = 2 ^ 53
-- Counts end here, so that the sum of two counts is exact.
local MAX_COUNT = 2 ^ 52

-- A window in microseconds is no longer than this. A larger number identifies a calendar.
local LONGEST_WINDOW = 100 * 365 * 86400000000
-- A fixed window may begin this much after now without a clock that was set back: another server, whose
-- clock was a little ahead, may have counted before.
local AHEAD = 2000000

local now = tonumber(ARGV[4])
if not now then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
end

-- Which algorithms are used, and whether units are given back and refusals are counted: 1, or 0.
local operations, keys = ARGV[1], { nil }
local buckets, fixed, sliding, in_flight, gives_back, has_penalties, offset = parse('<BBBBBB', operations)
local ALGORITHMS = { false, false, false, false }

-- The fields of each key. `arguments` are those of HSET: there is room for five policies. `last` is the index of
-- the last one in use.
for number = 1, #KEYS do
  local name, count = KEYS[number], nil
  count, offset = parse('<I2', operations, offset)
  local fields = { parse(('c9'):rep(count), operations, offset) }
  offset = fields[count + 1]
  keys[number] = {
    name = name, expires = 0, texts = false, pasts = false, lasts = 0, last = 1, count = count, fields = fields,
    arguments = { name, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil },
  }
end

-- The window of now of each calendar: when it begins and ends. `false` if the caller does not know the
-- calendar.
local calendars, needed = false, ''
if ARGV[2] and ARGV[2] ~= '' then
  calendars = {}
  for offset = 1, #ARGV[2], 40 do
    local calendar, before, start, ends, after = parse('<ddddd', ARGV[2], offset)
    if after == 0 then
      calendars[calendar] = false
    elseif now < before or now >= after then
      needed = needed .. pack('<d', calendar)
    elseif now < start then
      calendars[calendar] = { before, start }
    elseif now < ends then
      calendars[calendar] = { start, ends }
    else
      calendars[calendar] = { ends, after }
    end
  end
end

-- a * b / c, rounded down, and the rest. c is below 2^52. It is exact if the result is below 2^53.
local function divide(a, b, c)
  local product = a * b
  if product < EXACT then
    local rest = product % c
    return (product - rest) / c, rest
  end
  -- Long division by the digits of a, in a base so small that its product with a rest is exact.
  local b_rest = b % c
  local base = math.floor(EXACT / c)
  local digit = a % base
  local whole, rest = divide((a - digit) / base, b_rest, c)
  local left, right = rest * base, digit * b_rest
  local left_rest, right_rest = left % c, right % c
  local sum = left_rest + right_rest
  rest = sum % c
  whole = whole * base + (left - left_rest) / c + (right - right_rest) / c + (sum - rest) / c
  return a * ((b - b_rest) / c) + whole, rest
end

