-- As much of Envoy's Lua interface as credential_cache.lua uses, in plain Lua.

local envoy = { time = 1000, calls = {}, reply = nil }

-- Header names and values; a name may come several times.
local function headers_of(list, stream)
  local headers = {}
  function headers:get(name)
    local found = {}
    for _, each in ipairs(list) do
      if each[1] == name then
        table.insert(found, each[2])
      end
    end
    return found[1] and table.concat(found, ",")
  end
  function headers:remove(name)
    for i = #list, 1, -1 do
      if list[i][1] == name then
        table.remove(list, i)
      end
    end
  end
  function headers:replace(name, value)
    assert(type(value) == "string")
    if stream.fail_on == name then
      error("cannot set " .. name)
    end
    self:remove(name)
    table.insert(list, { name, value })
  end
  return headers
end

local function handle_of(stream, list)
  local handle = { stream = stream, list = list }
  function handle:headers()
    return headers_of(list, stream)
  end
  function handle:streamInfo()
    local state, metadata = {}, {}
    function state:get(key)
      return stream.filter_state[key]
    end
    function state:set(key, factory, value)
      assert(factory == "envoy.string" and type(value) == "string")
      stream.filter_state[key] = value
    end
    function metadata:get(namespace)
      return stream.metadata[namespace]
    end
    return {
      filterState = function() return state end,
      dynamicMetadata = function() return metadata end,
    }
  end
  function handle:virtualHost()
    local metadata = {}
    function metadata:get(key)
      return key == "listener" and stream.listener or nil
    end
    return { metadata = function() return metadata end }
  end
  function handle:httpCall(cluster, headers, body, milliseconds)
    table.insert(envoy.calls, { cluster = cluster, headers = headers, body = body, timeout = milliseconds })
    if envoy.reply == nil then
      return { [":status"] = "503" }, "upstream failure"
    end
    local size = #envoy.reply
    local prefix = string.char(0, 0, 0, math.floor(size / 256), size % 256)
    return { [":status"] = "200", ["grpc-status"] = "0" }, prefix .. envoy.reply
  end
  return handle
end

-- A request and what the script makes of it. `service` gives the metadata of the service's answer, and
-- is called only if the script did not mark a hit.
function envoy.request(list, service)
  local stream = { filter_state = {}, metadata = {}, listener = "forward", fail_on = list.fail_on }
  local handle = handle_of(stream, list)
  local ok, problem = pcall(envoy_on_request, handle)
  stream.error = not ok and problem or nil
  stream.request = headers_of(list, stream)
  stream.hit = stream.filter_state["credential_cache.hit"] ~= nil
  stream.asked = not stream.hit
  if stream.asked then
    stream.metadata["envoy.filters.http.ext_authz"] = service and service() or nil
  end
  return stream
end

-- The response to it; Envoy leaves out what the matcher around the filter leaves out.
function envoy.response(stream, list)
  local response = headers_of(list, stream)
  local leads = false
  for _, name in ipairs({ "location", "content-location", "refresh" }) do
    leads = leads or ((response:get(name) or ""):lower():find("https://", 1, true) ~= nil)
  end
  local answer = stream.metadata["envoy.filters.http.ext_authz"] or {}
  local passes = answer.route ~= nil and answer.cache_seconds == nil
  if (stream.hit or passes) and response:get(":status") ~= "401" and not leads then
    return response
  end
  envoy_on_response(handle_of(stream, list))
  return response
end

return envoy
