-- How each algorithm counts, in memory. The next file is several_quotas.lua.

local under_several_quotas

-- What a correction has to know before it gives units back to a bucket, and what it finds out:
--   since    how many units were given back since its charge, of uses that were no later
--   is_last  whether nothing was used after its charge
--   units    how many units it gives back: the most under any quota
--   longest  for how long a use counts at most
local giving_back

-- The algorithms.
--   text    the count, or false if there is none
--   first   of a charge, how many units must fit; of a correction, when its charge was made; of units
--           that are shared, when they were used
--   amount  how many units are charged or corrected
-- Returns: whether it fits; the state under the action's quota; how long the count matters, which is
-- until it is as good as none; whether it must be written; how many units were taken; and the text to
-- write, if that is not the state.
--
-- A count is nearly always one state, under the action's quota. Any other text goes to
-- `under_several_quotas`, which calls the algorithm with one state at a time.

-- A token bucket: what is missing, as whole units and a rest (`window` parts are one unit), at what
-- time, and the quota.
if buckets == 1 then
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
        -- As `divide` does, without a call in nearly all cases.
        local product, back, back_rest = (now - at) * units, nil, nil
        if product < EXACT then
          back_rest = product % window
          back = (product - back_rest) / window
        else
          back, back_rest = divide(now - at, units, window)
        end
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
      -- The clock does not have to bring back what was given back since.
      if missing - giving_back.since >= cost then
        missing = missing - giving_back.since
      elseif missing >= cost then
        missing, missing_rest = cost, 0
      end
      -- Some of what was missing after the charge has come back by the clock.
      local back, back_rest = divide(math.max(now - first, 0), units, window)
      missing, missing_rest = missing - back, missing_rest - back_rest
      if missing_rest < 0 then missing, missing_rest = missing - 1, missing_rest + window end
      if whole > missing or whole == missing and rest > missing_rest then
        giving_back.is_last = false
      end
      if missing >= amount then missing, missing_rest = amount, 0 end
      if missing > whole or missing == whole and missing_rest > rest then
        missing, missing_rest = whole, rest
      end
      if missing >= 0 then
        whole, rest = whole - missing, rest - missing_rest
        if rest < 0 then whole, rest = whole - 1, rest + window end
        giving_back.units = math.max(giving_back.units, missing_rest > 0 and missing + 1 or missing)
      end
      local lasts, lasts_rest = divide(capacity, window, units)
      giving_back.longest = math.max(giving_back.longest, lasts_rest > 0 and lasts + 1 or lasts)
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
if fixed == 1 then
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
    elseif amount > 0 and (action < TAKE or first >= start) then
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
if sliding == 1 then
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
      local at = now
      if action >= TAKE and first < now then at = first end
      -- Uses within a 60th of the window share an entry. The number of that step may not be exact, but
      -- how far a time is into it is.
      if at + window <= now then
        -- The window has passed over them.
      elseif newest == 0 or at >= newest_at then
        if newest > 0 then
          local _, rest = divide(at, 60, window)
          if (at - newest_at) * 60 > rest then
            older, newest = older .. pack(ENTRY, newest_at, newest), 0
          end
        end
        used, newest_at, newest, changed = used + amount, at, newest + amount, true
      else
        local offset = 1
        while offset < #older and parse(ENTRY, older, offset) < at do offset = offset + ENTRY_SIZE end
        local before, after = older:sub(1, offset - 1), older:sub(offset)
        local last_use, count = newest_at, newest
        if after ~= '' then last_use, count = parse(ENTRY, after) end
        local _, rest = divide(last_use, 60, window)
        if (last_use - at) * 60 > rest then
          count = 0
          if before ~= '' then
            _, rest = divide(at, 60, window)
            local of_before, count_before = parse(ENTRY, before, #before - ENTRY_SIZE + 1)
            if (at - of_before) * 60 <= rest then
              before, count = before:sub(1, -ENTRY_SIZE - 1), count_before
            end
          end
          older = before .. pack(ENTRY, at, count + amount) .. after
        elseif after == '' then
          newest = newest + amount
        else
          older = before .. pack(ENTRY, last_use, count + amount) .. after:sub(ENTRY_SIZE + 1)
        end
        used, changed = used + amount, true
      end
    end
    text = pack(HEAD, used, newest_at, newest, #older / ENTRY_SIZE, capacity, window)
    if older ~= '' then text = text .. older end
    return fits, text, newest > 0 and newest_at + window - now or 0, changed, amount
  end
end

-- Units in flight: each replica that holds some, until when it does if it says no more, the number of its
-- last statement, and its units. `replica` is the caller, which holds for so long (`lasts`), and has made
-- so many statements (`statement`). The action TAKE is a statement: the replica holds `amount` in all, and
-- up to `first` more, as their charges are under way.
-- The state in a reply is the sum. It is under no quota, so it never goes to `under_several_quotas`.
if in_flight == 1 then
  ALGORITHMS[4] = function(text, action, first, amount, replica, lasts, capacity, statement)
    local HOLDER, HOLDER_SIZE = '<dddd', 32
    local others, sum, own, own_statement, own_until = '', 0, 0, 0, 0
    local longest, changed = 0, false
    local is_sound = not text or #text % HOLDER_SIZE == 0
    for offset = 1, text and is_sound and #text or 0, HOLDER_SIZE do
      local holder, holds_until, stated, units = parse(HOLDER, text, offset)
      if
        units % 1 ~= 0 or units < 1 or units > MAX_COUNT
        or holds_until % 1 ~= 0 or holder % 1 ~= 0 or stated % 1 ~= 0
      then
        is_sound = false
        break
      end
      -- The clock was set back.
      if holds_until > now + lasts then holds_until, changed = now + lasts, true end
      if holds_until <= now then
        changed = true
      elseif holder == replica then
        own, own_statement, own_until = units, stated, holds_until
      else
        others, sum = others .. pack(HOLDER, holder, holds_until, stated, units), sum + units
        longest = math.max(longest, holds_until - now)
      end
    end
    if not is_sound then
      -- It is unknown who holds what: no unit is left for as long as a holder may say no more.
      others, sum, own = pack(HOLDER, 0, now + lasts, 0, math.max(capacity, 1)), math.max(capacity, 1), 0
      longest, changed = lasts, true
    end

    local fits, counts = true, false
    if action <= LEASE then
      fits = first == 0 or sum + own + first <= capacity
      counts = fits and action ~= PEEK and amount > 0
      if counts then own = own + amount else amount = 0 end
    elseif action == GIVE_BACK then
      -- A later statement has left these units out already.
      counts = statement >= own_statement
      if counts then own = math.max(own - amount, 0) end
    elseif action == TAKE then
      if statement > own_statement then
        counts = own <= amount or own > amount + first
        if counts then
          own = math.max(amount, math.min(own, amount + first))
        else
          -- It may have units that were given back before the statement, and are yet to be subtracted.
          changed, own_until = true, now + lasts
        end
      end
    end
    if counts then
      changed, own_until, own_statement = true, now + lasts, math.max(own_statement, statement)
    end
    if own > 0 then
      others = others .. pack(HOLDER, replica, own_until, own_statement, own)
      longest = math.max(longest, own_until - now)
    end
    return fits, pack('<d', sum + own), longest, changed, amount, others
  end
end
