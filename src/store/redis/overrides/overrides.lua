-- Changes overrides, and answers with what has changed since a version. mod.rs beside this file draws
-- the key, the arguments and the reply.
--
-- KEYS[1]   The hash of the overrides.
-- ARGV[1]   The action: 'read', 'set', 'end', or 'end all'.
-- ARGV[2]   The version that the replica knows; empty if none.
-- ARGV[3]   The id of this change, 8 bytes.
-- ARGV[4]   The field of the override; of 'end all', the caller's 16 bytes.
-- ARGV[5]   Of 'set': how long the override lasts, in microseconds.
-- ARGV[6]   Of 'set': what the override says, as JSON.
-- ARGV[7]   Of 'set': how many overrides there may be.

local call, pack, parse = redis.call, struct.pack, struct.unpack
local hash, action, known, id, field = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]

-- The fields that are no overrides are shorter than these.
local SHORTEST_FIELD = 17
-- So many changes are remembered. A replica that has missed more gets all overrides.
local MAX_LOG = 256
local EXACT = 2 ^ 53

local time = call('TIME')
local now = time[1] * 1000000 + time[2]

local function is_whole(number) return number % 1 == 0 and number >= 0 and number < EXACT end

-- The number of the version, and the id of its change. What cannot be read is as good as nothing: the
-- replicas then get all overrides.
local meta = call('HMGET', hash, 'version', 'log', 'expires')
local number, last_id = 0, ('\0'):rep(8)
if meta[1] and #meta[1] == 16 then
  local read, read_id = parse('<dc8', meta[1])
  if is_whole(read) then number, last_id = read, read_id end
end

-- The latest changes, the last of which led to this version: the id and the field of each.
local log = {}
local text, offset = meta[2] or '', 1
while offset <= #text do
  if #text - offset + 1 < 10 then log = {} break end
  local entry_id, length = parse('<c8I2', text, offset)
  if #text - offset + 1 < 10 + length then log = {} break end
  log[#log + 1] = { entry_id, text:sub(offset + 10, offset + 9 + length) }
  offset = offset + 10 + length
end
if #log > 0 and log[#log][1] ~= last_id then log = {} end

local expires = tonumber(meta[3]) or 0
if not is_whole(expires) then expires = 0 end

-- When an override ends; false if it cannot be read.
local function ends(value)
  if #value < 16 then return false end
  local since, til = parse('<dd', value)
  return is_whole(since) and is_whole(til) and til
end

local function count()
  local all = call('HLEN', hash)
  for index = 1, 3 do
    if meta[index] then all = all - 1 end
  end
  return all
end

-- Removes what has ended. Each replica knows that by itself.
local function remove_ended()
  local all = call('HGETALL', hash)
  for index = 1, #all, 2 do
    local til = #all[index] >= SHORTEST_FIELD and ends(all[index + 1])
    if til and til <= now then call('HDEL', hash, all[index]) end
  end
end

local before, changed, is_full = {}, {}, 0

if action == 'set' then
  local old = call('HMGET', hash, field)[1]
  local max = tonumber(ARGV[7])
  if not old and count() >= max then remove_ended() end
  if not old and count() >= max then
    is_full = 1
  else
    if old then before = { field, old } end
    local til = now + tonumber(ARGV[5])
    call('HSET', hash, field, pack('<dd', now, til) .. ARGV[6])
    changed[1] = field
    if til > expires then expires = til end
  end
elseif action == 'end' then
  local old = call('HMGET', hash, field)[1]
  if old then
    before = { field, old }
    call('HDEL', hash, field)
    changed[1] = field
  end
elseif action == 'end all' then
  local all = call('HGETALL', hash)
  for index = 1, #all, 2 do
    local name = all[index]
    if #name >= SHORTEST_FIELD and name:sub(1, 16) == field then
      before[#before + 1], before[#before + 2] = name, all[index + 1]
      call('HDEL', hash, name)
      changed[#changed + 1] = name
    end
  end
end

if #changed > 0 then
  for _, name in ipairs(changed) do
    number, last_id = number + 1, id
    log[#log + 1] = { id, name }
  end
  while #log > MAX_LOG do table.remove(log, 1) end
  local entries = {}
  for index, entry in ipairs(log) do
    entries[index] = pack('<c8I2', entry[1], #entry[2]) .. entry[2]
  end
  call(
    'HSET', hash, 'version', pack('<dc8', number, last_id), 'log', table.concat(entries),
    'expires', ('%.0f'):format(expires)
  )
  -- The hash goes with its last override. A minute more: an override that has just ended still has its
  -- version.
  call('PEXPIRE', hash, math.max(math.ceil((expires - now) / 1000), 0) + 60000)
end

local version = pack('<dc8', number, last_id)
local is_all, names = 1, {}
if known == version then
  is_all = 0
elseif #known == 16 then
  -- The index of the known version in the log, if it is there.
  local known_number, known_id = parse('<dc8', known)
  local index = known_number - (number - #log)
  if log[index] and log[index][1] == known_id then
    is_all = 0
    local seen = {}
    for after = index + 1, #log do
      local name = log[after][2]
      if not seen[name] then
        seen[name] = true
        names[#names + 1] = name
      end
    end
  end
end

-- Field and value in turn. An override that was ended has an empty value.
local records = {}
if is_all == 1 then
  local all = call('HGETALL', hash)
  for index = 1, #all, 2 do
    if #all[index] >= SHORTEST_FIELD then
      records[#records + 1], records[#records + 2] = all[index], all[index + 1]
    end
  end
else
  for _, name in ipairs(names) do
    records[#records + 1] = name
    records[#records + 1] = call('HMGET', hash, name)[1] or ''
  end
end
return { ('%.0f'):format(now), version, is_all, is_full, before, records }
