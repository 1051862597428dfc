-- The past of a key under a policy, which corrections have to know. It has a field of its own. First comes when
-- the key was reset. For a bucket, what was given back lately follows: until when that matters, and then the
-- last microsecond and the units of each step. src/algorithm/given_back.rs has the reasons.

local read_past, units_since, add_given_back
if gives_back == 1 then
  local MAX_STEPS, UNKNOWN = 16, EXACT - 1

  -- Returns nothing if the text cannot be read.
  function read_past(text)
    local past = { reset_at = 0, expires = 0 }
    if not text then return past end
    if #text ~= 8 and (#text < 16 or #text % 16 ~= 0) then return end
    past.reset_at = parse('<d', text)
    if #text > 8 then past.expires = parse('<d', text, 9) end
    for offset = 17, #text, 16 do
      local ends, units = parse('<dd', text, offset)
      if ends % 1 ~= 0 or units % 1 ~= 0 or units < 0 then return end
      past[#past + 1] = { ends, units }
    end
    return past
  end

  -- How many units were given back since a use, of uses that were no later.
  function units_since(past, used_at)
    for index = 1, #past do
      if past.expires <= now then return 0 end
      if used_at <= past[index][1] then return past[index][2] end
    end
    return 0
  end

  -- Makes a step end at this time.
  local function split(past, ends)
    local index = 1
    while past[index] and past[index][1] < ends do index = index + 1 end
    local step = past[index]
    if not step or step[1] > ends then
      table.insert(past, index, { ends, step and step[2] or 0 })
    end
  end

  -- Adds units that are given back now. Returns the text to write.
  function add_given_back(past, used_at, units, longest)
    if past.expires <= now then past = { reset_at = past.reset_at, expires = 0 } end
    past.expires = math.min(math.max(past.expires, now + longest), EXACT)
    used_at = used_at == UNKNOWN and 0 or math.min(used_at, now)
    if used_at > 0 then split(past, used_at - 1) end
    split(past, now)
    for index = 1, #past do
      local step = past[index]
      if step[1] >= used_at then step[2] = math.min(step[2] + units, MAX_COUNT) end
    end
    while #past > MAX_STEPS do
      -- The two steps that differ least become one. The larger number stays.
      local merged, least = 1, math.huge
      for index = 1, #past - 1 do
        local difference = math.abs(past[index][2] - past[index + 1][2])
        if difference < least then merged, least = index, difference end
      end
      local step = table.remove(past, merged)
      past[merged][2] = math.max(past[merged][2], step[2])
    end
    local texts = { pack('<dd', past.reset_at, past.expires) }
    for index = 1, #past do texts[index + 1] = pack('<dd', unpack(past[index])) end
    return table.concat(texts)
  end
end
