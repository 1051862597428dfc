-- Makes corrections, and after them all charges of a request or none.
--
-- KEYS      Where each is counted. A key may be named by several corrections, and by a charge then.
-- ARGV[1]   Each of them, in the same order, packed as OPERATION.
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

local OPERATION, OPERATION_SIZE = '<BBI7I7I7I7I7', 37
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
    return text, until_missing(state, 0)
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
    return windows * state.window - (now - state.start)
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

local states = #KEYS > 0 and call('MGET', unpack(KEYS)) or {}
local answer = { now }

-- What an operation is made of, and the state it is made in.
local function read(place)
  local begins = (place - 1) * OPERATION_SIZE + 1
  local algorithm, action, first, second, units, window, capacity =
    parse(OPERATION, ARGV[1], begins)
  made[algorithm] = made[algorithm] or ALGORITHMS[algorithm]()
  algorithm = made[algorithm]
  local state = { algorithm = algorithm, units = units, window = window, capacity = capacity }
  algorithm.read(state, states[place])
  return state, action, first, second
end

-- A state and the time it is kept are written at once: no key is ever without.
local function write(place, state)
  local text, lasts = state.algorithm.write(state)
  if lasts > 0 then
    lasts = min(lasts, EXACT)
    call('SET', KEYS[place], text, 'PX', (lasts - lasts % 1000) / 1000 + 1 + longer)
    return text
  elseif states[place] then
    call('DEL', KEYS[place])
  end
  return false
end

local function tell(place, state, wait, leased)
  local left, reset = state.algorithm.left(state)
  local last = 3 * place + 1
  answer[last - 2], answer[last - 1], answer[last] = min(wait, EXACT), left + leased, min(reset, EXACT)
end

local function correct(place, state, change, units, charged_at)
  if change == GIVE_BACK then
    state.algorithm.give_back(state, units, charged_at)
  elseif change == TAKE and units > 0 then
    state.algorithm.take(state, units)
  elseif change == RESET then
    state.algorithm.read(state, false)
  end
  if change ~= TAKE or units > 0 or state.changed then
    local text = write(place, state)
    for later = place + 1, #KEYS do
      if KEYS[later] == KEYS[place] then states[later] = text end
    end
  end
  tell(place, state, 0, 0)
end

local charges, passes = {}, true
for place = 1, #KEYS do
  local state, action, first, second = read(place)
  if action >= GIVE_BACK then
    correct(place, state, action, second, first)
  else
    state.cost, state.wait = second, state.algorithm.wait(state, first)
    if action == PEEK then state.cost = 0 end
    state.place, state.is_lease = place, action == LEASE
    if (action == ENFORCED or action == LEASE) and state.wait > 0 then passes = false end
    charges[#charges + 1] = state
  end
end
for _, state in ipairs(charges) do
  local cost, leased = 0, 0
  if passes and state.wait == 0 then cost = state.cost end
  if state.is_lease and cost > 0 then
    cost = min(cost, (state.algorithm.left(state)))
    leased = cost
  end
  if cost > 0 then
    state.algorithm.take(state, cost)
    state.changed = true
  end
  if state.changed then write(state.place, state) end
  tell(state.place, state, state.wait, leased)
end
return answer
