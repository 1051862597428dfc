-- Makes corrections, and then all charges of a request or none. mod.rs beside this file draws the keys,
-- the arguments and the reply. The script is six files in a row: arguments.lua reads what is asked,
-- algorithms.lua, several_quotas.lua, penalties.lua and given_back.lua count in memory, and this file reads
-- and writes the keys.
--
-- All times are microseconds. Each algorithm counts as its namesake in src/algorithm, where the reasons
-- are, with two differences. Numbers are exact below 2^53 only. And the clock may be set back: units
-- that were used before then count as used now.
--
-- One server runs this for all replicas, one run at a time. So it must be fast: it uses local variables,
-- makes few functions (to make one takes as long as to run it, so an algorithm is made only if it is
-- used), and few tables, which are slow to grow.

-- Reads the fields of the keys.
for number = 1, #keys do
  local key = keys[number]
  local fields, count = key.fields, key.count
  local texts = redis.pcall('HMGET', key.name, EXPIRES, unpack(fields, 1, count))
  if texts.err then
    if texts.err:sub(1, 9) ~= 'WRONGTYPE' then return texts end
    -- The key is no hash, and not ours: no count in it can be read.
    for index = 2, count + 1 do texts[index] = '' end
  end
  -- The windows of other quotas that a key is counted under.
  for index = 2, fixed == 1 and count + 1 or 0 do
    local text = texts[index]
    if text and #text >= 40 and fields[index - 1]:byte(9) % 16 == 2 then
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
  key.texts, key.expires = texts, expires < EXACT and expires or 0
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
  local millis = (lasts - lasts % 1000) / 1000 + 2 + (ARGV[5] or 0)
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
local replied = 1
while (operations:byte(offset + ACTION) or 0) % WITH_REST > LEASE do
  local key_number, field_number, algorithm, action, first, amount, units, window, capacity, rest = parse(
    OPERATION, operations, offset
  )
  local penalty, cost, missing, missing_rest, next_offset = parse(REST, operations, rest)
  local key = keys[key_number]
  local field = key.fields[field_number]
  local old_text = key.texts[field_number + 1]
  -- The past of the key (see given_back.lua), the text that replaces it, and how long that matters.
  local past, new_past, past_lasts
  if action == GIVE_BACK and penalty > 0 then
    past = read_past(key.pasts and key.pasts[field] or key.texts[penalty + 1])
    if not past or first < past.reset_at then
      -- What was charged before the key was reset is not counted any more.
      action, amount = PEEK, 0
    else
      local since = units_since(past, first)
      -- Answers are rounded by less than a microsecond.
      local is_last = since == 0 and window >= units
      giving_back = { since = since, is_last = is_last, units = 0, longest = 0 }
    end
    penalty = 0
  elseif action == RESET and algorithm < 4 then
    past_lasts = 0
    if old_text then
      past_lasts = select(
        3, ALGORITHMS[algorithm](old_text, PEEK, 0, 0, units, window, capacity, cost)
      )
    end
    -- A full bucket may have been given units back lately.
    if algorithm == 1 then past_lasts = math.max(past_lasts, key.expires - now) end
    if past_lasts > 0 then new_past = pack('<d', now) end
  end
  local fits, text, lasts, changed, _, list = ALGORITHMS[algorithm](
    action ~= RESET and old_text, action < PENALIZE and action or PEEK, first, amount, units, window,
    capacity, cost, missing, missing_rest
  )
  if action == GIVE_BACK and algorithm == 1 and giving_back.units > 0 and not giving_back.is_last then
    new_past = add_given_back(past, first, giving_back.units, giving_back.longest)
    past_lasts = giving_back.longest
  end
  if new_past then
    local of_past = field:sub(1, 8) .. string.char(field:byte(9) + 4)
    set(key, { key.name, of_past, new_past }, 3, past_lasts)
    key.pasts = key.pasts or {}
    key.pasts[field] = new_past
  end
  local blocked = 0
  if penalty > 0 then
    local of_penalty = key.fields[penalty]
    local penalty_text = key.texts[penalty + 1]
    if action ~= PENALIZE then
      if penalty_text then remove(key, of_penalty) end
      key.texts[penalty + 1] = false
    else
      local counted, matters = count_refusal(penalty_text, amount)
      if counted then
        set(key, { key.name, of_penalty, counted }, 3, matters)
        key.texts[penalty + 1] = counted
      end
      blocked = blocked_by(key.texts[penalty + 1])
      fits = fits and blocked == 0
    end
  end
  answer[replied + 1], answer[replied + 2] = (fits or action < PENALIZE) and FITS or REFUSED, text
  if penalty > 0 then answer[replied + 1] = answer[replied + 1] .. pack('<d', blocked) end
  if action < PENALIZE and changed and (amount > 0 or action == GIVE_BACK or algorithm == 4) or action == RESET then
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
  offset, replied = next_offset, replied + 2
end

-- In the place of `or_else`: the quota is unlimited, so nothing is counted. The charge fits unless its key is
-- blocked.
local LOOKS = 2

-- Makes all charges. If one does not fit that must, returns false, with nothing written; then it runs
-- again with `makes` false, only to reply. Of charges that stand for each other, the first that fits is
-- made, and those behind it are `spared`: they only reply.
local function charge(makes)
  local answer, keys, offset, replied, spared = answer, keys, offset, replied, false
  while offset <= #operations do
    local key_number, field_number, algorithm, action, first, amount, units, window, capacity, rest = parse(
      OPERATION, operations, offset
    )
    offset = rest
    local key, with_rest, penalty, cost, or_else = keys[key_number], action >= WITH_REST, 0, 0, 0
    local old_text = key.texts[field_number + 1]
    if with_rest then
      action = action - WITH_REST
      local _
      penalty, cost, or_else, _, offset = parse(REST, operations, rest)
    end
    if spared then action = PEEK end
    local done, blocked = makes and action or PEEK, 0
    if penalty > 0 then
      local moved, matters
      blocked, moved, matters = blocked_by(key.texts[penalty + 1])
      if blocked > 0 then done = PEEK end
      if or_else == LOOKS then old_text, done, or_else = false, PEEK, 0 end
      if moved and action ~= PEEK then
        set(key, { key.name, key.fields[penalty], moved }, 3, matters)
      end
    end
    local fits, text, lasts, changed, taken, list = ALGORITHMS[algorithm](
      old_text, done, first, amount, units, window, capacity, cost
    )
    if blocked > 0 then fits = false end
    if not fits and makes and or_else == 0 and (action == ENFORCED or action == LEASE) then
      return false
    end
    answer[replied + 1], answer[replied + 2] = fits and FITS or REFUSED, text
    if with_rest then
      if action == LEASE then answer[replied + 1] = answer[replied + 1] .. pack('<d', taken) end
      if penalty > 0 then answer[replied + 1] = answer[replied + 1] .. pack('<d', blocked) end
      spared = or_else == 1 and (spared or fits)
    else
      spared = false
    end
    replied = replied + 2
    if changed and action ~= PEEK then
      if lasts > 0 then
        local arguments, last = key.arguments, key.last
        arguments[last + 1], arguments[last + 2] = key.fields[field_number], list or text
        key.last = last + 2
        if lasts > key.lasts then key.lasts = lasts end
      elseif old_text then
        remove(key, key.fields[field_number])
      end
    end
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
