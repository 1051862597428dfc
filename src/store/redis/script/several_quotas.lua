-- A count under several quotas, or under another quota than the action's: one state for each quota, the
-- state that was written last comes first. Each counts every use of the key. A quota that has no state
-- yet begins as the emptiest bucket; or with what the shortest window counts that holds all of the new
-- one, or else with what the longest one counts. If there are too many states, one goes: one that matters
-- no more; or else the one that remembers for the shortest time; of several such, the smallest, and of
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
  if giving_back then giving_back.is_last = false end

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

  -- The state of the shortest window that looks back at least as far as a new one, or else of the longest.
  local function nearest(new)
    local nearest_state, is_shorter, distance
    for index = 1, #states do
      local state, _, looks_back = unpack(states[index])
      if algorithm == 2 then looks_back = math.max(now - parse('<d', state), 0) end
      local shorter, from_new = looks_back < new, math.abs(looks_back - new)
      local is_nearer = shorter == is_shorter and from_new < distance or is_shorter and not shorter
      if not nearest_state or is_nearer then
        nearest_state, is_shorter, distance = state, shorter, from_new
      end
    end
    return nearest_state
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
        -- So that the next call need not send its window.
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
    local _, spent = count(false, TAKE, math.huge, capacity, units, window, capacity)
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
  local is_tracked = current ~= nil
  if not current then
    changed = true
    if algorithm == 1 then
      -- What is missing, in parts of the new quota: the most that any state says, as a small bucket
      -- cannot hold all uses.
      local whole, parts = 0, 0
      for index = 1, #states do
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
      local _, new = count(false, PEEK, 0, 0, units, window, capacity)
      local _, used = parse('<dd', nearest(now - parse('<d', new)))
      _, current = count(false, TAKE, math.huge, used, units, window, capacity)
    else
      -- The entries that the new window still covers, in its steps.
      local state, used, newest_at, newest, older = nearest(window), 0, 0, 0, ''
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

  if action == GIVE_BACK and algorithm == 1 and #states > 0 then
    -- Nor can the bucket of the use itself, if it may have been empty since.
    local whole, rest = parse('<dd', current)
    local back, back_rest = divide(math.max(now - first, 0), units, window)
    if rest + back_rest >= window then whole = whole + 1 end
    if not is_tracked or whole + back >= capacity then amount = 0 end
  end
  local fits, is_changed, taken, lasts
  fits, current, lasts, is_changed, taken = count(
    current, action, first, amount, units, window, capacity, cost, missing, missing_rest
  )
  -- What is charged was used now, and what is taken when its charge was made.
  if action < GIVE_BACK then first = math.huge end
  local texts = {}
  for index = 1, #states do
    local state, state_units, state_window, state_capacity = unpack(states[index])
    local others, used = action == GIVE_BACK and GIVE_BACK or SHARE, taken
    -- Other buckets cannot tell what they have counted of the use.
    if others == GIVE_BACK and algorithm == 1 then others, used = SHARE, 0 end
    local _, text, of_lasts, was_changed = count(
      state, others, first, used, state_units, state_window, state_capacity, cost, cost, 0
    )
    texts[index], lasts, changed = text, math.max(lasts, of_lasts), changed or was_changed
  end
  -- The last one under which something is charged or corrected comes first.
  if taken > 0 or action > LEASE then position = 1 end
  table.insert(texts, position, current)
  return fits, current, lasts, changed or is_changed, taken, table.concat(texts)
end
