-- Makes corrections, and after them all charges of a request or none.
--
-- KEYS      Whose they are. Each is a hash, with a field for each policy, and one for when it expires.
-- ARGV[1]   Each of them, packed as OPERATION. A field may be named by several corrections, and by one
--           charge after them.
-- ARGV[2]   Tests only: the time, in microseconds.
-- ARGV[3]   Tests only: how many milliseconds longer than needed states are kept.
--
-- Answers with one string: the time, and for each a byte, which is 1 if it fits, and the state as it
-- is then. What a state means to a caller is worked out by who asked. A lease takes as many units as
-- there are, up to a number; how many is told between the two. All times are microseconds.
--
-- Each algorithm counts as its namesake in src/algorithm, where the reasons are. Two things are
-- different here. Numbers are whole and exact below 2^53 only. And the clock may be set back: what
-- was used then stays used, as if it had been used now.
--
-- One server runs this for all replicas, one at a time. So a charge keeps to local variables: it makes
-- few functions, which take as long to make as to run, and few tables, which are slow to grow.

local call, pack, parse = redis.call, struct.pack, struct.unpack

-- The number of the key, the number of the field among those of the key, the field, the algorithm, the
-- action, what it is about, and the quota: its units, window and capacity.
local OPERATION, OPERATION_SIZE, ACTION = '<I2I2c9BBddddd', 55, 14
local EXPIRES = 'expires'
local ENFORCED, PEEK, LEASE, GIVE_BACK, RESET = 0, 2, 3, 4, 6

-- Of what is answered.
local FITS, REFUSED = '\1', '\0'

-- Times and products are exact below this.
local EXACT = 2 ^ 53
-- Counts end here, so that the sum of two is exact.
local MOST = 2 ^ 52

local now = tonumber(ARGV[2])
if not now then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
end

-- a * b / c, rounded down, and the rest; c is below 2^52. Exact where the result is.
local function divide(a, b, c)
  local product = a * b
  if product < EXACT then
    local rest = product % c
    return (product - rest) / c, rest
  end
  -- As on paper: by the digits of a, in a base so small that its product with a rest is exact.
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

-- The algorithms. Each is given the text of a state, or false where there is none, and an action.
-- `first` is how many units must fit, or when those of a correction were charged; `second` how many
-- are charged or corrected. Each answers with whether it fits, the new text, for how long that says
-- more than none would, whether it must be written, and how many units were taken.

-- What is missing: whole units, and a rest in parts of which a unit has as many as `window`. Then of
-- when that is, and of what quota.
local function token_bucket(text, action, first, second, units, window, capacity)
  local whole, rest, changed = 0, 0, false
  if text and #text == 48 then
    local at, old_units, old_window, old_capacity
    whole, rest, at, old_units, old_window, old_capacity = parse('<dddddd', text)
    if at < now then
      local back, back_rest = divide(now - at, old_units, old_window)
      whole, rest = whole - back, rest - back_rest
      if rest < 0 then whole, rest = whole - 1, rest + old_window end
      if whole < 0 then whole, rest = 0, 0 end
    end
    changed = at > now
    if units ~= old_units or window ~= old_window or capacity ~= old_capacity then
      -- Another plan.
      if rest > 0 then whole = whole + 1 end
      if whole > capacity then whole = capacity end
      rest = 0
    end
  end

  local fits = true
  if action <= LEASE then
    local over = whole + first - capacity
    fits = over < 0 or over == 0 and rest == 0
    if not fits or action == PEEK then
      second = 0
    elseif action == LEASE then
      second = math.min(second, capacity - (rest > 0 and whole + 1 or whole))
    end
  end
  if action == GIVE_BACK then
    changed, whole = true, whole - second
    if whole < 0 then whole, rest = 0, 0 end
  elseif second > 0 then
    changed, whole = true, whole + second
    if whole > MOST then whole = MOST end
  end
  text = pack('<dddddd', whole, rest, now, units, window, capacity)
  return fits, text, (rest > 0 and whole + 1 or whole) * window / units, changed, second
end

-- Whether an action fits in a window, and how many units it is then about.
local function fit(used, action, first, second, capacity)
  if action > LEASE then return true, second end
  if first > 0 and used + first > capacity then return false, 0 end
  if action == PEEK then return true, 0 end
  if action == LEASE then second = math.max(math.min(second, capacity - used), 0) end
  return true, second
end

-- When the window began, and what was used in it.
local function fixed_window(text, action, first, second, units, window, capacity)
  local start, used, changed = now - now % window, 0, false
  if text and #text == 16 then
    local old_start, old_used = parse('<dd', text)
    if old_start >= start then
      used = old_used
      local next_start = start + window
      -- A window that is later still is of a clock that was set back.
      changed = old_start > next_start
      if old_start == next_start then start = next_start end
    end
  end

  local fits
  fits, second = fit(used, action, first, second, capacity)
  if action == GIVE_BACK then
    changed = true
    if first - first % window >= start then
      used = used > second and used - second or 0
    end
  elseif second > 0 then
    changed, used = true, used + second
    if used > MOST then used = MOST end
  end
  return fits, pack('<dd', start, used), used > 0 and start + window - now or 0, changed, second
end

-- How much is used; of the newest entry of the log when its last use was, and its units; and how many
-- entries are before it. Then these: of each, when its last use was and its units.
local function sliding_window(text, action, first, second, units, window, capacity)
  local HEAD, HEAD_SIZE, ENTRY, ENTRY_SIZE = '<dddI2', 26, '<dd', 16
  local used, ended, newest, older, changed = 0, 0, 0, '', false
  if text and #text >= HEAD_SIZE and (#text - HEAD_SIZE) % ENTRY_SIZE == 0 then
    used, ended, newest = parse(HEAD, text)
    if #text > HEAD_SIZE then older = text:sub(HEAD_SIZE + 1) end
    if ended > now then
      -- The clock was set back.
      local moved = {}
      for place = 1, #older, ENTRY_SIZE do
        local last_use, count = parse(ENTRY, older, place)
        moved[#moved + 1] = pack(ENTRY, math.min(last_use, now), count)
      end
      older, ended, changed = table.concat(moved), now, true
    end
    -- What the window has passed over leaves.
    if ended + window <= now then
      used, newest, older = 0, 0, ''
    elseif older ~= '' then
      local place = 1
      while place < #older do
        local last_use, count = parse(ENTRY, older, place)
        if last_use + window > now then break end
        used, place = used - count, place + ENTRY_SIZE
      end
      older = older:sub(place)
    end
  end

  local fits
  fits, second = fit(used, action, first, second, capacity)
  if action == GIVE_BACK then
    changed = true
    if first + window > now then
      -- From the entry of that moment; then from those before it, where it is not known exactly.
      local place = 1
      while place < #older and parse(ENTRY, older, place) < first do place = place + ENTRY_SIZE end
      if place > #older then
        local given = math.min(newest, second)
        newest, used, second = newest - given, used - given, second - given
        place = place - ENTRY_SIZE
      end
      local later = older:sub(place + ENTRY_SIZE)
      while place > 0 do
        local last_use, count = parse(ENTRY, older, place)
        local given = math.min(count, second)
        used, second = used - given, second - given
        if count > given then later = pack(ENTRY, last_use, count - given) .. later end
        place = place - ENTRY_SIZE
      end
      older = later
      if newest == 0 and older ~= '' then
        ended, newest = parse(ENTRY, older, #older - ENTRY_SIZE + 1)
        older = older:sub(1, -ENTRY_SIZE - 1)
      end
    end
  elseif second > 0 and used < MOST then
    if used + second > MOST then second = MOST - used end
    -- Uses within a 60th of the window share an entry. The number of such a step may not be exact;
    -- how far `now` is in it is.
    if newest > 0 then
      local _, rest = divide(now, 60, window)
      if (now - ended) * 60 > rest then
        older, newest = older .. pack(ENTRY, ended, newest), 0
      end
    end
    used, ended, newest, changed = used + second, now, newest + second, true
  end
  text = pack(HEAD, used, ended, newest, #older / ENTRY_SIZE)
  if older ~= '' then text = text .. older end
  return fits, text, newest > 0 and ended + window - now or 0, changed, second
end

local ALGORITHMS = { token_bucket, fixed_window, sliding_window }

-- What each key is asked for. `arguments` are of this, and of what is written later: five policies
-- have room. The last that is used is at `last`.
local operations, keys = ARGV[1], { nil }
for begins = 1, #operations, OPERATION_SIZE do
  local number, place, field = parse('<I2I2c9', operations, begins)
  local key = keys[number]
  if not key then
    local name = KEYS[number]
    key = {
      name = name, expires = 0, texts = false, lasts = 0, last = 0,
      arguments = { name, EXPIRES, nil, nil, nil, nil, nil, nil, nil, nil, nil },
    }
    keys[number] = key
  end
  place = place + 2
  key.arguments[place] = field
  if place > key.last then key.last = place end
end
for number = 1, #keys do
  local key = keys[number]
  local texts = redis.pcall('HMGET', unpack(key.arguments, 1, key.last))
  if texts.err and texts.err:sub(1, 9) ~= 'WRONGTYPE' then return texts end
  key.texts, key.expires, key.last = texts, tonumber(texts[1]) or 0, 1
end

-- Writes fields of a key, each with its text: the first `last` of `arguments`. A key is kept a quarter
-- longer than it says something, so that the next request need not say again how long; and it never
-- is without a time to live.
local function set(key, arguments, last, lasts)
  if key.texts.err then
    -- It is no hash, and not ours.
    call('DEL', key.name)
    key.texts = {}
  end
  if now + lasts <= key.expires then return call('HSET', unpack(arguments, 1, last)) end
  lasts = math.min(math.ceil(lasts * 1.25), EXACT)
  key.expires = now + lasts
  arguments[last + 1], arguments[last + 2] = EXPIRES, key.expires
  call('HSET', unpack(arguments, 1, last + 2))
  local millis = (lasts - lasts % 1000) / 1000 + 1 + (ARGV[3] or 0)
  local expires = redis.pcall('PEXPIRE', key.name, millis)
  if expires ~= 1 then
    -- Not allowed, perhaps.
    call('DEL', key.name)
    error(expires.err)
  end
end

local function remove(key, field)
  local name = key.name
  call('HDEL', name, field)
  if call('HLEN', name) == 1 then
    call('DEL', name)
    key.expires = 0
  end
end

-- With room for six.
local answer = { pack('<d', now), nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil }

-- Corrections are made one by one.
local begins, told = 1, 1
while (operations:byte(begins + ACTION) or 0) > LEASE do
  local number, place, field, algorithm, action, first, second, units, window, capacity =
    parse(OPERATION, operations, begins)
  local key = keys[number]
  local old_text = key.texts[place + 1]
  local fits, text, lasts, changed = ALGORITHMS[algorithm](
    action ~= RESET and old_text, action, first, second, units, window, capacity
  )
  answer[told + 1], answer[told + 2] = FITS, text
  if changed or action == RESET then
    if lasts > 0 then
      set(key, { key.name, field, text }, 3, lasts)
    elseif old_text then
      remove(key, field)
      text = false
    end
    -- What comes next may be of the same field.
    key.texts[place + 1] = text
  end
  begins, told = begins + OPERATION_SIZE, told + 2
end

-- Makes all charges; or answers false where one does not fit that must, with nothing written. Then it
-- is run again only to tell of them.
local function charge(makes)
  local told = told
  for begins = begins, #operations, OPERATION_SIZE do
    local number, place, field, algorithm, action, first, second, units, window, capacity =
      parse(OPERATION, operations, begins)
    local key = keys[number]
    local old_text = key.texts[place + 1]
    local fits, text, lasts, changed, taken = ALGORITHMS[algorithm](
      old_text, makes and action or PEEK, first, second, units, window, capacity
    )
    if makes and not fits and (action == ENFORCED or action == LEASE) then return false end
    answer[told + 1], answer[told + 2] = fits and FITS or REFUSED, text
    if action == LEASE then answer[told + 1] = answer[told + 1] .. pack('<d', taken) end
    if changed then
      if lasts > 0 then
        local arguments, last = key.arguments, key.last + 2
        arguments[last - 1], arguments[last], key.last = field, text, last
        if lasts > key.lasts then key.lasts = lasts end
      elseif old_text then
        remove(key, field)
      end
    end
    told = told + 2
  end
  return true
end

if not charge(true) then
  for number = 1, #keys do keys[number].last, keys[number].lasts = 1, 0 end
  charge(false)
end
for number = 1, #keys do
  local key = keys[number]
  if key.last > 1 then set(key, key.arguments, key.last, key.lasts) end
end
return table.concat(answer)
