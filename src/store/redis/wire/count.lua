-- Makes corrections, and after them all charges of a request or none.
--
-- KEYS      Whose they are. Each is a hash, with a field for each policy, and one for when it expires.
-- ARGV[1]   Each of them, packed as OPERATION. A field may be named by several corrections, and by one
--           charge after them.
-- ARGV[2]   Tests only: the time, in microseconds.
-- ARGV[3]   Tests only: how many milliseconds longer than needed states are kept.
--
-- Answers with the time, and for each with how long until it fits, the units left, and how long
-- until there are more. All times are microseconds. A lease takes as many units as there are, up to
-- a number; it is told how many there were before.
--
-- Each algorithm counts as its namesake in src/algorithm, where the reasons are. Two things are
-- different here. Numbers are whole and exact below 2^53 only. And the clock may be set back: what
-- was used then stays used, as if it had been used now.

local call, min, max = redis.call, math.min, math.max
local pack, parse = struct.pack, struct.unpack

-- The number of the key, the field, the action, and what it is about.
local OPERATION, OPERATION_SIZE = '<I2c9BI7I7I7I7I7', 47
local EXPIRES = 'expires'
local ENFORCED, PEEK, LEASE, GIVE_BACK, TAKE, RESET = 0, 2, 3, 4, 5, 6

-- Longer times, from 285 years on, are told as this.
local EXACT = 2 ^ 53
-- Counts end here, so that the sum of two is exact.
local MOST = 2 ^ 52

local now, longer = tonumber(ARGV[2]), ARGV[3] or 0
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

-- What is missing: whole units, and a rest in parts of which a unit has as many as `window`.
local function token_bucket()
  local count = {}
  local BUCKET, BUCKET_SIZE = '<I7I7I7I7I7I7', 42

  function count.read(state, text)
    local whole, rest = 0, 0
    if text and #text == BUCKET_SIZE then
      local at, units, window, capacity
      whole, rest, at, units, window, capacity = parse(BUCKET, text)
      if at < now then
        local back, back_rest = divide(now - at, units, window)
        whole, rest = whole - back, rest - back_rest
        if rest < 0 then whole, rest = whole - 1, rest + window end
        if whole < 0 then whole, rest = 0, 0 end
      end
      state.changed = at > now
      if units ~= state.units or window ~= state.window or capacity ~= state.capacity then
        -- Another plan.
        if rest > 0 then whole = whole + 1 end
        whole, rest = min(whole, state.capacity), 0
      end
    end
    state.whole, state.rest = whole, rest
  end

  -- How long until only `units` are missing.
  local function until_missing(state, units)
    local time, rest = divide(state.whole - units, state.window, state.units)
    rest = rest + state.rest
    local over = rest % state.units
    return time + (rest - over) / state.units + (over > 0 and 1 or 0)
  end

  function count.wait(state, units)
    local may_miss = state.capacity - units
    if state.whole < may_miss or state.whole == may_miss and state.rest == 0 then return 0 end
    return until_missing(state, may_miss)
  end

  function count.take(state, units)
    state.whole = min(state.whole + units, MOST)
  end

  function count.give_back(state, units)
    if units > state.whole then
      state.whole, state.rest = 0, 0
    else
      state.whole = state.whole - units
    end
  end

  function count.left(state)
    local missing = state.rest > 0 and state.whole + 1 or state.whole
    local left = state.capacity - missing
    if missing == 0 then return left, 0 end
    -- Overdrawn, the units beyond the capacity come first.
    return max(left, 0), until_missing(state, max(min(missing, state.capacity) - 1, 0))
  end

  function count.write(state)
    local units, window = state.units, state.window
    local text = pack(BUCKET, state.whole, state.rest, now, units, window, state.capacity)
    local missing = state.rest > 0 and state.whole + 1 or state.whole
    return text, math.ceil(missing * window / units)
  end

  return count
end

-- When the window began, and what was used in it.
local function fixed_window()
  local count = {}
  local WINDOW, WINDOW_SIZE = '<I7I7', 14

  function count.read(state, text)
    state.start, state.used = now - now % state.window, 0
    if text and #text == WINDOW_SIZE then
      local start, used = parse(WINDOW, text)
      local next_start = state.start + state.window
      if start >= state.start then
        state.used = used
        state.changed = start > next_start
      end
      if start == next_start then state.start = start end
    end
  end

  local function until_end(state, windows)
    return (windows - 1) * state.window + (state.window - (now - state.start))
  end

  function count.wait(state, units)
    local short = units - max(state.capacity - state.used, 0)
    if short <= 0 then return 0 end
    return until_end(state, math.ceil(short / state.units))
  end

  function count.take(state, units)
    state.used = min(state.used + units, MOST)
  end

  function count.give_back(state, units, charged_at)
    if charged_at - charged_at % state.window >= state.start then
      state.used = max(state.used - units, 0)
    end
  end

  function count.left(state)
    return max(state.capacity - state.used, 0), until_end(state, 1)
  end

  function count.write(state)
    return pack(WINDOW, state.start, state.used), state.used > 0 and until_end(state, 1) or 0
  end

  return count
end

-- How much is used; and a log of it. Each entry is when its last use was and its units. Before the
-- log comes one of how much is used and when the first use of the newest entry was.
local function sliding_window()
  local count = {}
  local ENTRY, ENTRY_SIZE = '<I7I7', 14

  -- For each entry of a log: its place, its last use, its units.
  local function next_entry(log, place)
    place = place + ENTRY_SIZE
    if place > #log then return nil end
    local last_use, units = parse(ENTRY, log, place)
    return place, last_use, units
  end

  local function entries(log)
    return next_entry, log, 1 - ENTRY_SIZE
  end

  local function newest_entry(log)
    return parse(ENTRY, log, #log - ENTRY_SIZE + 1)
  end

  function count.read(state, text)
    state.used, state.began, state.log = 0, 0, ''
    if not text or #text < 2 * ENTRY_SIZE or #text % ENTRY_SIZE > 0 then return end
    local used, began = parse(ENTRY, text)
    local log = text:sub(ENTRY_SIZE + 1)
    if newest_entry(log) > now then
      local moved = {}
      for _, last_use, units in entries(log) do
        moved[#moved + 1] = pack(ENTRY, min(last_use, now), units)
      end
      log, began, state.changed = table.concat(moved), min(began, now), true
    end
    -- What the window has passed over leaves.
    local first = #log + 1
    for place, last_use, units in entries(log) do
      if last_use + state.window > now then
        first = place
        break
      end
      used = used - units
    end
    state.used, state.began, state.log = used, began, log:sub(first)
  end

  function count.wait(state, units)
    if units == 0 then return 0 end
    -- The units beyond a whole quota wait for those before them, a window for each quota.
    local beyond = units - 1 - (units - 1) % state.units
    local later = beyond / state.units * state.window
    local short = state.used + units - beyond - state.capacity
    if short <= 0 then return later end
    for _, last_use, leave in entries(state.log) do
      short = short - leave
      if short <= 0 then return last_use + state.window - now + later end
    end
    return later
  end

  function count.take(state, units)
    local log = state.log
    units = min(units, MOST - state.used)
    state.used = state.used + units
    if log ~= '' and (now - state.began) * 60 < state.window then
      local _, before = newest_entry(log)
      state.log = log:sub(1, -ENTRY_SIZE - 1) .. pack(ENTRY, now, before + units)
    else
      state.began, state.log = now, log .. pack(ENTRY, now, units)
    end
  end

  function count.give_back(state, units, charged_at)
    if charged_at + state.window <= now then return end
    local times, counts, last = {}, {}, nil
    for _, last_use, count in entries(state.log) do
      times[#times + 1], counts[#counts + 1] = last_use, count
      if not last and last_use >= charged_at then last = #times end
    end
    -- The entry of that moment; then those before it, where the moment is not known exactly.
    for place = last or #times, 1, -1 do
      local given = min(counts[place], units)
      counts[place], units, state.used = counts[place] - given, units - given, state.used - given
    end
    while counts[#counts] == 0 do
      times[#times], counts[#counts], state.began = nil, nil, 0
    end
    local log = {}
    for place, count in ipairs(counts) do
      log[place] = pack(ENTRY, times[place], count)
    end
    state.log = table.concat(log)
  end

  function count.left(state)
    -- With more used than the quota, the first to leave change nothing.
    local excess = max(state.used - state.capacity, 0)
    for _, last_use, units in entries(state.log) do
      if units > excess then
        return max(state.capacity - state.used, 0), last_use + state.window - now
      end
      excess = excess - units
    end
    return state.capacity, 0
  end

  function count.write(state)
    local lasts = state.log == '' and 0 or newest_entry(state.log) + state.window - now
    return pack(ENTRY, state.used, state.began) .. state.log, lasts
  end

  return count
end

-- Only what is used is made: making all would take as long as a charge.
local ALGORITHMS, made = { token_bucket, fixed_window, sliding_window }, {}

-- What is asked, and the fields that it needs of each key.
local states, keys, asked, begins = {}, {}, ARGV[1], 1
while begins <= #asked do
  local number, field, action, first, second, units, window, capacity
  number, field, action, first, second, units, window, capacity, begins =
    parse(OPERATION, asked, begins)
  local fields = keys[number]
  if not fields then
    fields = { KEYS[number], EXPIRES }
    keys[number] = fields
  end
  fields[#fields + 1] = field
  -- With all that an algorithm adds: tables are slow to grow.
  states[#states + 1] = {
    number = number, field = field, text = #fields - 1, action = action, first = first,
    second = second, units = units, window = window, capacity = capacity, algorithm = false,
    wait = 0, leased = 0, changed = false, whole = 0, rest = 0, used = 0, start = 0,
  }
end
for number, fields in ipairs(keys) do
  local texts = redis.pcall('HMGET', unpack(fields))
  keys[number] = {
    name = fields[1], texts = texts, is_foreign = texts.err, expires = tonumber(texts[1]) or 0,
    lasts = 0, fields = false,
  }
end

local function read(state)
  local key, algorithm = keys[state.number], state.field:byte(-1)
  state.text = key.texts[state.text]
  local count = made[algorithm]
  if not count then
    count = ALGORITHMS[algorithm]()
    made[algorithm] = count
  end
  state.algorithm = count
  count.read(state, state.text)
end

-- Writes fields of a key, each with its text. A key is kept a quarter longer than it says something,
-- so that the next request need not say again how long; and it never is without a time to live.
local function set(key, fields, lasts)
  if key.is_foreign then call('DEL', key.name) end
  lasts = min(lasts, EXACT)
  if now + lasts <= key.expires then return call('HSET', unpack(fields)) end
  lasts = lasts + (lasts - lasts % 4) / 4
  key.expires, key.is_foreign = now + lasts, false
  fields[#fields + 1], fields[#fields + 2] = EXPIRES, key.expires
  call('HSET', unpack(fields))
  call('PEXPIRE', key.name, (lasts - lasts % 1000) / 1000 + 1 + longer)
end

local function remove(key, field)
  call('HDEL', key.name, field)
  if call('HLEN', key.name) == 1 then
    call('DEL', key.name)
    key.expires = 0
  end
end

local answer = { now }

local function tell(place, state)
  local left, reset = state.algorithm.left(state)
  local last = 3 * place + 1
  left = left + state.leased
  answer[last - 2], answer[last - 1], answer[last] = min(state.wait, EXACT), left, min(reset, EXACT)
end

-- To take nothing leaves all as it is, also what another plan says of it.
local function correct(place, state)
  local change, units, key = state.action, state.second, keys[state.number]
  if change == GIVE_BACK then
    state.algorithm.give_back(state, units, state.first)
  elseif change == TAKE and units > 0 then
    state.algorithm.take(state, units)
  elseif change == RESET then
    state.algorithm.read(state, false)
  end
  if change ~= TAKE or units > 0 or state.changed then
    local text, lasts = state.algorithm.write(state)
    if lasts > 0 then
      set(key, { key.name, state.field, text }, lasts)
    elseif state.text then
      remove(key, state.field)
      text = false
    end
    -- A later one may be of the same field.
    for later = place + 1, #states do
      local other = states[later]
      if other.number == state.number and other.field == state.field then
        key.texts[other.text] = text
      end
    end
  end
  tell(place, state)
end

-- Whether each charge fits; then, if all do that must, all are made.
local passes = true
for place, state in ipairs(states) do
  read(state)
  local action = state.action
  if action >= GIVE_BACK then
    correct(place, state)
  else
    state.wait = state.algorithm.wait(state, state.first)
    if (action == ENFORCED or action == LEASE) and state.wait > 0 then passes = false end
  end
end

local function charge(place, state)
  local units = state.second
  if not passes or state.wait > 0 or state.action == PEEK then
    units = 0
  elseif state.action == LEASE then
    units = min(units, (state.algorithm.left(state)))
    state.leased = units
  end
  if units > 0 then
    state.algorithm.take(state, units)
    state.changed = true
  end
  if state.changed then
    local key, text, lasts = keys[state.number], state.algorithm.write(state)
    if lasts > 0 then
      local fields = key.fields
      if fields then
        fields[#fields + 1], fields[#fields + 2] = state.field, text
      else
        key.fields = { key.name, state.field, text }
      end
      key.lasts = max(key.lasts, lasts)
    elseif state.text then
      remove(key, state.field)
    end
  end
  tell(place, state)
end

for place, state in ipairs(states) do
  if state.action < GIVE_BACK then charge(place, state) end
end
for _, key in ipairs(keys) do
  if key.fields then set(key, key.fields, key.lasts) end
end
return answer
