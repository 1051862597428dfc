-- Makes corrections, and then all charges of a request or none. mod.rs beside this file draws the keys,
-- the arguments and the reply.
--
-- KEYS      Each is the hash of one caller: a field for each policy, and one for when it expires.
-- ARGV[1]   The operations. Several corrections may be of one field, and one charge after them.
-- ARGV[2]   The windows of calendars: those that are about now by the caller's guess.
-- ARGV[3]   Tests only: the time, in microseconds.
-- ARGV[4]   Tests only: how many milliseconds longer than needed counts are kept.
--
-- All times are microseconds. Each algorithm counts as its namesake in src/algorithm, where the reasons
-- are, with two differences. Numbers are exact below 2^53 only. And the clock may be set back: units
-- that were used before then count as used now.
--
-- One server runs this for all replicas, one run at a time. So it must be fast: it uses local variables,
-- makes few functions (to make one takes as long as to run it, so an algorithm is made only if it is
-- used), and few tables, which are slow to grow.

local call, pack, parse = redis.call, struct.pack, struct.unpack

-- Key number, field number, field, algorithm, action, `first`, `amount`, and the quota: units, window,
-- capacity. A correction has three more: the charge's cost, and what was missing in a bucket right after
-- it, as whole units and a rest.
local OPERATION, CORRECTION, OPERATION_SIZE, ACTION = '<I2I2c9BBddddd', '<I2I2c9BBdddddddd', 79, 14
local EXPIRES = 'expires'
local ENFORCED, PEEK, LEASE, GIVE_BACK, TAKE, RESET = 0, 2, 3, 4, 5, 6

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

local now = tonumber(ARGV[3])
if not now then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
end

-- The fields of each key, and which algorithms are used. `arguments` are those of HMGET, and later of
-- HSET: there is room for five policies. `last` is the index of the last one in use.
local operations, keys, ALGORITHMS = ARGV[1], { nil }, { false, false, false }
for offset = 1, #operations, OPERATION_SIZE do
  local key_number, field_number, field, algorithm = parse('<I2I2c9B', operations, offset)
  ALGORITHMS[algorithm] = true
  local key = keys[key_number]
  if not key then
    local name = KEYS[key_number]
    key = {
      name = name, expires = 0, texts = false, lasts = 0, last = 0,
      arguments = { name, EXPIRES, nil, nil, nil, nil, nil, nil, nil, nil, nil },
    }
    keys[key_number] = key
  end
  field_number = field_number + 2
  key.arguments[field_number] = field
  if field_number > key.last then key.last = field_number end
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

local under_several_quotas

-- The algorithms.
--   text    the count, or false if there is none
--   first   of a charge, how many units must fit; of a correction, when its charge was made
--   amount  how many units are charged or corrected
-- Returns: whether it fits; the state under the action's quota; how long the count matters, which is
-- until it is as good as none; whether it must be written; how many units were taken; and the text to
-- write, if that is not the state.
--
-- A count is nearly always one state, under the action's quota. Any other text goes to
-- `under_several_quotas`, which calls the algorithm with one state at a time.

-- A token bucket: what is missing, as whole units and a rest (`window` parts are one unit), at what
-- time, and the quota.
if ALGORITHMS[1] then
  ALGORITHMS[1] = function(
    text, action, first, amount, units, window, capacity, cost, missing, missing_rest
  )
    local whole, rest, changed = 0, 0, false
    if text then
      local at, state_units, state_window, state_capacity
      if #text == 48 then
        whole, rest, at, state_units, state_window, state_capacity = parse('<dddddd', text)
      end
      if
        state_window ~= window or state_units ~= units or state_capacity ~= capacity
        or whole % 1 ~= 0 or whole < 0 or whole > 2 * capacity
        or rest % 1 ~= 0 or rest < 0 or rest >= window
        or at % 1 ~= 0 or at < 0
      then
        return under_several_quotas(
          1, text, action, first, amount, units, window, capacity, cost, missing, missing_rest
        )
      end
      if at < now then
        local back, back_rest = divide(now - at, units, window)
        whole, rest = whole - back, rest - back_rest
        if rest < 0 then whole, rest = whole - 1, rest + window end
        if whole < 0 then whole, rest = 0, 0 end
      end
      changed = at > now
    end

    local fits = true
    if action <= LEASE then
      local over = whole + first - capacity
      fits = over < 0 or over == 0 and rest == 0 or first == 0
      if not fits or action == PEEK then
        amount = 0
      elseif action == LEASE then
        amount = math.min(amount, capacity - (rest > 0 and whole + 1 or whole))
      end
    end
    if action == GIVE_BACK then
      changed = true
      -- Some of what was missing after the charge has come back by the clock.
      local back, back_rest = divide(math.max(now - first, 0), units, window)
      missing, missing_rest = missing - back, missing_rest - back_rest
      if missing_rest < 0 then missing, missing_rest = missing - 1, missing_rest + window end
      if missing >= amount then missing, missing_rest = amount, 0 end
      if missing >= 0 then
        whole, rest = whole - missing, rest - missing_rest
        if rest < 0 then whole, rest = whole - 1, rest + window end
        if whole < 0 then whole, rest = 0, 0 end
      end
    elseif amount > 0 then
      -- A debt is at most one whole capacity. Only corrections make debts, not charges under other
      -- quotas.
      local most = action == TAKE and 2 * capacity or capacity
      changed = true
      if whole < most then
        whole = whole + amount
        if whole >= most then whole, rest = most, 0 end
      end
    end
    text = pack('<dddddd', whole, rest, now, units, window, capacity)
    return fits, text, (rest > 0 and whole + 1 or whole) * window / units, changed, amount
  end
end

-- Whether an action fits in a window, and how many units it then takes.
local function fit(used, action, first, amount, capacity)
  if action > LEASE then return true, amount end
  if first > 0 and used + first > capacity then return false, 0 end
  if action == PEEK then return true, 0 end
  if action == LEASE then amount = math.max(math.min(amount, capacity - used), 0) end
  return true, amount
end

-- A fixed window: when it began, what was used in it, and the quota. By the calendar also when it ends.
if ALGORITHMS[2] then
  ALGORITHMS[2] = function(text, action, first, amount, units, window, capacity)
    local by_calendar, used, changed = window > LONGEST_WINDOW, 0, false
    local old_start, old_used, state_units, state_window, old_ends
    if text then
      if by_calendar and #text == 40 then
        old_start, old_used, state_units, state_window, old_ends = parse('<ddddd', text)
      elseif #text == 32 and not by_calendar then
        old_start, old_used, state_units, state_window = parse('<dddd', text)
      end
      if
        state_window ~= window or state_units ~= capacity
        or old_used % 1 ~= 0 or old_used < 0 or old_used > MAX_COUNT
        or old_start % 1 ~= 0 or old_start < 0
        or by_calendar and (old_ends % 1 ~= 0 or old_ends <= old_start or old_ends > EXACT)
      then
        return under_several_quotas(2, text, action, first, amount, units, window, capacity)
      end
    end
    local start, ends
    if not by_calendar then
      start = now - now % window
      ends = start + window
    elseif calendars and calendars[window] then
      start, ends = unpack(calendars[window])
    else
      -- Of another quota than the action's: its window is not over, or its windows would be known.
      start, ends = old_start, old_ends
    end
    if text and old_start >= start then
      used = old_used
      if old_start - now > AHEAD then
        -- A clock was set back.
        changed = true
      elseif old_start > now then
        -- The window of a clock that is a little ahead.
        start, ends = old_start, by_calendar and old_ends or old_start + window
      else
        -- It is later where a caller has other rules of a time zone. A window that has begun never
        -- begins again.
        start = old_start
      end
    end

    local fits
    fits, amount = fit(used, action, first, amount, capacity)
    if action == GIVE_BACK then
      changed = true
      if first >= start then
        used = used > amount and used - amount or 0
      end
    elseif amount > 0 then
      changed, used = true, used + amount
      if used > MAX_COUNT then used = MAX_COUNT end
    end
    if by_calendar then
      text = pack('<ddddd', start, used, capacity, window, ends)
    else
      text = pack('<dddd', start, used, capacity, window)
    end
    return fits, text, used > 0 and ends - now or 0, changed, amount
  end
end

-- A sliding window, which is a log: how many units are used; the newest entry's last use, and its units;
-- how many older entries there are; and the quota. Then each older entry: its last use, and its units.
if ALGORITHMS[3] then
  ALGORITHMS[3] = function(text, action, first, amount, units, window, capacity)
    local HEAD, HEAD_SIZE, ENTRY, ENTRY_SIZE = '<dddI2dd', 42, '<dd', 16
    local used, newest_at, newest, older, changed = 0, 0, 0, '', false
    if text then
      local count, state_units, state_window
      if #text >= HEAD_SIZE then
        used, newest_at, newest, count, state_units, state_window = parse(HEAD, text)
      end
      if
        state_window ~= window or state_units ~= capacity or #text ~= HEAD_SIZE + count * ENTRY_SIZE
        or used % 1 ~= 0 or newest % 1 ~= 0 or newest < 0 or used < newest or used > MAX_COUNT
        or newest_at % 1 ~= 0 or newest_at < 0
      then
        return under_several_quotas(3, text, action, first, amount, units, window, capacity)
      end
      if count > 0 then older = text:sub(HEAD_SIZE + 1) end
      if newest_at > now then
        -- The clock was set back.
        local moved = {}
        for offset = 1, #older, ENTRY_SIZE do
          local last_use, count = parse(ENTRY, older, offset)
          moved[#moved + 1] = pack(ENTRY, math.min(last_use, now), count)
        end
        older, newest_at, changed = table.concat(moved), now, true
      end
      -- Entries that the window has passed leave.
      if newest_at + window <= now then
        used, newest, older = 0, 0, ''
      elseif older ~= '' then
        local offset = 1
        while offset < #older do
          local last_use, count = parse(ENTRY, older, offset)
          -- Entries are checked when they are the oldest: to check all takes too long.
          if not (last_use <= newest_at and count >= 1) then used = -1 end
          if last_use + window > now then break end
          used, offset = used - count, offset + ENTRY_SIZE
        end
        if used < newest or used % 1 ~= 0 then
          return under_several_quotas(3, text, action, first, amount, units, window, capacity)
        end
        older = older:sub(offset)
      end
    end

    local fits
    fits, amount = fit(used, action, first, amount, capacity)
    if action == GIVE_BACK then
      changed = true
      local amount = amount
      if first + window > now then
        -- From the entry of that time, and then from entries before it: the time may not be exact.
        local offset = 1
        while offset < #older and parse(ENTRY, older, offset) < first do offset = offset + ENTRY_SIZE end
        if offset > #older then
          local given = math.min(newest, amount)
          newest, used, amount = newest - given, used - given, amount - given
          offset = offset - ENTRY_SIZE
        end
        local later = older:sub(offset + ENTRY_SIZE)
        while offset > 0 do
          local last_use, count = parse(ENTRY, older, offset)
          local given = math.min(count, amount)
          used, amount = used - given, amount - given
          if count > given then later = pack(ENTRY, last_use, count - given) .. later end
          offset = offset - ENTRY_SIZE
        end
        older = later
        if newest == 0 and older ~= '' then
          newest_at, newest = parse(ENTRY, older, #older - ENTRY_SIZE + 1)
          older = older:sub(1, -ENTRY_SIZE - 1)
        end
      end
    elseif amount > 0 and used < MAX_COUNT then
      if used + amount > MAX_COUNT then amount = MAX_COUNT - used end
      -- Uses within a 60th of the window share an entry. The number of that step may not be exact, but
      -- how far `now` is into it is.
      if newest > 0 then
        local _, rest = divide(now, 60, window)
        if (now - newest_at) * 60 > rest then
          older, newest = older .. pack(ENTRY, newest_at, newest), 0
        end
      end
      used, newest_at, newest, changed = used + amount, now, newest + amount, true
    end
    text = pack(HEAD, used, newest_at, newest, #older / ENTRY_SIZE, capacity, window)
    if older ~= '' then text = text .. older end
    return fits, text, newest > 0 and newest_at + window - now or 0, changed, amount
  end
end

-- A count under several quotas, or under another quota than the action's: one state for each quota, the
-- state that was written last comes first. Each counts every use of the key. A quota that has no state
-- yet begins with what the first state has. If there are too many states, one goes: one that matters no
-- more; or else the one that remembers for the shortest time; of several such, the smallest, and of
-- these the last.
--
-- A text that cannot be read is no count of ours: something was used, and it is not known how much. So
-- the key counts as one that has used its whole quota. That is written, and comes back with the window.
function under_several_quotas(
  algorithm, text, action, first, amount, units, window, capacity, cost, missing, missing_rest
)
  local PEEK, GIVE_BACK, TAKE, SHARE, QUOTAS, MAX_COUNT, EXACT = 2, 4, 5, 7, 4, 2 ^ 52, 2 ^ 53
  -- Days, weeks, months and years of calendars: the longest of each.
  local DAY, DAYS = 86400000000, { 1, 7, 31, 366 }
  local count, states, changed, matters = ALGORITHMS[algorithm], {}, false, false

  -- Whether all are whole numbers that are exact.
  local function are_whole(...)
    for index = 1, select('#', ...) do
      local value = select(index, ...)
      if value % 1 ~= 0 or value < 0 or value > EXACT then return false end
    end
    return true
  end

  -- The state at an offset: returns the offset behind it, and its quota.
  local function read(offset)
    local rest = #text - offset + 1
    if algorithm == 1 and rest >= 48 then
      local whole, part, at, units, window, capacity = parse('<dddddd', text, offset)
      local is_valid = are_whole(whole, part, at, units, window, capacity)
      if is_valid and whole <= 2 * capacity and part < window then
        return offset + 48, units, window, capacity
      end
    elseif algorithm == 2 and rest >= 32 then
      local start, used, units, window = parse('<dddd', text, offset)
      if not are_whole(start, used, units, window) or used > MAX_COUNT then return end
      if window <= LONGEST_WINDOW then return offset + 32, units, window, units end
      local ends = rest >= 40 and parse('<d', text, offset + 32) or 0
      if are_whole(ends) and ends > start then
        local is_now = start <= now + AHEAD and now < ends
        return offset + 40, units, window, units, is_now or calendars and calendars[window]
      end
    elseif algorithm == 3 and rest >= 42 then
      local used, newest_at, newest, older, units, window = parse('<dddI2dd', text, offset)
      local is_valid = are_whole(used, newest_at, newest, units, window)
      if not is_valid or rest < 42 + older * 16 then return end
      local sum, before, last_use, count = newest, 0
      for entry = offset + 42, offset + 41 + older * 16, 16 do
        last_use, count = parse('<dd', text, entry)
        if not are_whole(last_use, count) or last_use < before or count < 1 then return end
        sum, before = sum + count, last_use
      end
      if sum == used and used <= MAX_COUNT and before <= newest_at then
        return offset + 42 + older * 16, units, window, units
      end
    end
  end

  local offset, is_valid = 1, text ~= ''
  while offset <= #text do
    local next_offset, state_units, state_window, state_capacity, has_window = read(offset)
    is_valid = next_offset and state_window >= 1 and state_window < MAX_COUNT and #states < QUOTAS
    if algorithm == 1 and is_valid then is_valid = state_units >= 1 end
    if not is_valid then break end
    local by_calendar = algorithm == 2 and state_window > LONGEST_WINDOW
    if not by_calendar or has_window then
      -- Brings the state to the present.
      local old = text:sub(offset, next_offset - 1)
      local _, state, lasts, was_set_back = count(
        old, PEEK, 0, 0, state_units, state_window, state_capacity
      )
      local longest = lasts > 0 and state_window or 0
      if by_calendar then
        longest = lasts > 0 and DAYS[(state_window - LONGEST_WINDOW - 1) % 4 + 1] * DAY or 0
        -- So that its window need not be told again.
        was_set_back = was_set_back or parse('<d', old) ~= parse('<d', state)
      end
      if algorithm == 1 and lasts > 0 and state_capacity ~= state_units then
        longest = math.ceil(state_window * 1000 * state_capacity / state_units) / 1000
      end
      states[#states + 1] = { state, state_units, state_window, state_capacity, longest }
      matters, changed = matters or lasts > 0, changed or was_set_back
    else
      -- Its window is over, and the caller does not know the calendar.
      changed = true
    end
    offset = next_offset
  end
  if not is_valid then
    local _, spent = count(false, TAKE, 0, capacity, units, window, capacity)
    states, changed, matters = { { spent, units, window, capacity } }, true, true
  end
  if not matters then
    -- The count is as good as none.
    return count(
      false, action, first, amount, units, window, capacity, cost, missing, missing_rest
    )
  end

  local current, position = nil, 1
  for index = 1, #states do
    local _, state_units, state_window, state_capacity = unpack(states[index])
    if state_units == units and state_window == window and state_capacity == capacity then
      current, position = table.remove(states, index)[1], index
      break
    end
  end
  if not current then
    changed = true
    local state = states[1][1]
    if algorithm == 1 then
      -- What is missing, in parts of the new quota: what the first state says. If a state has to go, it
      -- is the most that any says, as the first may be a bucket that was too small to count all.
      local whole, parts = 0, 0
      for index = 1, #states == QUOTAS and QUOTAS or 1 do
        local of_whole, rest = parse('<dd', states[index][1])
        local of_parts, left = divide(rest, window, states[index][3])
        if left > 0 then of_parts = of_parts + 1 end
        if of_parts == window then of_whole, of_parts = of_whole + 1, 0 end
        if of_whole > whole or of_whole == whole and of_parts > parts then
          whole, parts = of_whole, of_parts
        end
      end
      if whole >= capacity then whole, parts = capacity, 0 end
      current = pack('<dddddd', whole, parts, now, units, window, capacity)
    elseif algorithm == 2 then
      local _, used = parse('<dd', state)
      _, current = count(false, TAKE, 0, used, units, window, capacity)
    else
      -- The entries that the new window still covers, in its steps.
      local used, newest_at, newest, older = 0, 0, 0, ''
      local function add(last_use, count)
        if count == 0 or last_use + window <= now then return end
        local _, rest = divide(last_use, 60, window)
        if newest > 0 and (last_use - newest_at) * 60 > rest then
          older, newest = older .. pack('<dd', newest_at, newest), 0
        end
        used, newest_at, newest = used + count, last_use, newest + count
      end
      for entry = 43, #state, 16 do add(parse('<dd', state, entry)) end
      add(parse('<dd', state, 9))
      current = pack('<dddI2dd', used, newest_at, newest, #older / 16, capacity, window) .. older
    end
    local dropped = #states
    for index = dropped - 1, 1, -1 do
      local this, that = states[index], states[dropped]
      if this[5] < that[5] or this[5] == that[5] and this[5] > 0 and this[4] < that[4] then
        dropped = index
      end
    end
    if #states == QUOTAS then table.remove(states, dropped) end
  end

  local fits, is_changed, taken, lasts
  fits, current, lasts, is_changed, taken = count(
    current, action, first, amount, units, window, capacity, cost, missing, missing_rest
  )
  local texts = {}
  for index = 1, #states do
    local state, state_units, state_window, state_capacity = unpack(states[index])
    local others, used = action == GIVE_BACK and GIVE_BACK or SHARE, taken
    if others == GIVE_BACK and algorithm == 1 then
      -- A bucket that may have been empty then has not counted the use, or only a part of it.
      local whole, rest = parse('<dd', state)
      local back, back_rest = divide(math.max(now - first, 0), state_units, state_window)
      if rest + back_rest >= state_window then whole = whole + 1 end
      if whole + back >= state_capacity then others, used = SHARE, 0 end
    end
    local _, text, of_lasts = count(
      state, others, first, used, state_units, state_window, state_capacity, cost, cost, 0
    )
    texts[index], lasts = text, math.max(lasts, of_lasts)
  end
  -- The last one under which something is charged or corrected comes first.
  if taken > 0 or action > LEASE then position = 1 end
  table.insert(texts, position, current)
  return fits, current, lasts, changed or is_changed, taken, table.concat(texts)
end

for number = 1, #keys do
  local key = keys[number]
  local texts = redis.pcall('HMGET', unpack(key.arguments, 1, key.last))
  if texts.err then
    if texts.err:sub(1, 9) ~= 'WRONGTYPE' then return texts end
    -- The key is no hash, and not ours: no count in it can be read.
    for index = 2, key.last do texts[index] = '' end
  end
  -- The windows of other quotas that a key is counted under.
  for index = 2, key.last do
    local text = texts[index]
    if text and #text >= 40 and key.arguments[index + 1]:byte(9) % 16 == 2 then
      local offset = 1
      while offset + 31 <= #text do
        local start, _, _, window = parse('<dddd', text, offset)
        offset = offset + 32
        if window > LONGEST_WINDOW then
          local ends = offset + 7 <= #text and parse('<d', text, offset) or 0
          offset = offset + 8
          -- Where no other count is left, one that is over says nothing.
          local is_needed = (start > now + AHEAD or now >= ends and #text > 40)
            and window < MAX_COUNT and window % 1 == 0
          if is_needed and not (calendars and calendars[window] ~= nil) then
            needed = needed .. pack('<d', window)
          end
        end
      end
    end
  end
  local expires = tonumber(texts[1]) or 0
  key.texts, key.expires, key.last = texts, expires < EXACT and expires or 0, 1
end
if needed ~= '' then return pack('<d', now) .. NEEDS_WINDOWS .. needed end

-- Writes fields of a key: the first `last` of `arguments`. A key is kept a quarter longer than it
-- matters, so that the next requests need not set its time to live again. It never is without one. Redis
-- counts it in whole milliseconds, from the current one or the one before: two more are enough.
local function set(key, arguments, last, lasts)
  if key.texts.err then
    call('DEL', key.name)
    key.texts.err = nil
  end
  if now + lasts <= key.expires then return call('HSET', unpack(arguments, 1, last)) end
  lasts = math.min(math.ceil(lasts * 1.25), EXACT)
  key.expires = now + lasts
  arguments[last + 1], arguments[last + 2] = EXPIRES, key.expires
  call('HSET', unpack(arguments, 1, last + 2))
  local millis = (lasts - lasts % 1000) / 1000 + 2 + (ARGV[4] or 0)
  local expires = redis.pcall('PEXPIRE', key.name, millis)
  if expires ~= 1 then
    -- Perhaps the user may not call PEXPIRE.
    call('DEL', key.name)
    error(expires.err)
  end
end

local function remove(key, field)
  local name = key.name
  if not key.texts.err then
    call('HDEL', name, field)
    if call('HLEN', name) > 1 then return end
  end
  call('DEL', name)
  key.expires, key.texts.err = 0, nil
end

-- There is room for six operations.
local answer = { pack('<d', now), nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil }

-- Corrections are made one by one.
local offset, replied = 1, 1
while (operations:byte(offset + ACTION) or 0) > LEASE do
  local key_number, field_number, field, algorithm, action, first, amount, units, window, capacity, cost,
    missing, missing_rest = parse(CORRECTION, operations, offset)
  local key = keys[key_number]
  local old_text = key.texts[field_number + 1]
  local fits, text, lasts, changed, _, list = ALGORITHMS[algorithm](
    action ~= RESET and old_text, action, first, amount, units, window, capacity, cost, missing,
    missing_rest
  )
  answer[replied + 1], answer[replied + 2] = FITS, text
  if changed and (amount > 0 or action == GIVE_BACK) or action == RESET then
    text = list or text
    if lasts > 0 then
      set(key, { key.name, field, text }, 3, lasts)
    elseif old_text then
      remove(key, field)
      text = false
    end
    -- The next operation may be of the same field.
    key.texts[field_number + 1] = text
  end
  offset, replied = offset + OPERATION_SIZE, replied + 2
end

-- Makes all charges. If one does not fit that must, returns false, with nothing written; then it runs
-- again with `makes` false, only to reply.
local function charge(makes)
  local replied = replied
  for offset = offset, #operations, OPERATION_SIZE do
    local key_number, field_number, field, algorithm, action, first, amount, units, window, capacity =
      parse(OPERATION, operations, offset)
    local key = keys[key_number]
    local old_text = key.texts[field_number + 1]
    local fits, text, lasts, changed, taken, list = ALGORITHMS[algorithm](
      old_text, makes and action or PEEK, first, amount, units, window, capacity
    )
    if makes and not fits and (action == ENFORCED or action == LEASE) then return false end
    answer[replied + 1], answer[replied + 2] = fits and FITS or REFUSED, text
    if action == LEASE then answer[replied + 1] = answer[replied + 1] .. pack('<d', taken) end
    if changed and action ~= PEEK then
      if lasts > 0 then
        local arguments, last = key.arguments, key.last + 2
        arguments[last - 1], arguments[last], key.last = field, list or text, last
        if lasts > key.lasts then key.lasts = lasts end
      elseif old_text then
        remove(key, field)
      end
    end
    replied = replied + 2
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
