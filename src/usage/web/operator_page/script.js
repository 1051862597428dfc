
// Draws the JSON of this page's address, and sends the changes that the operator makes.

const TIMES = { '1 hour': 3600, '1 day': 86400, '1 week': 604800, '30 days': 2592000 };

let overview = null;
let timer = 0;

// --- What is shown ---------------------------------------------------------------------------

function meter(quota) {
  const bar = element('div');
  const text = `${count(quota.remaining)} of ${count(quota.limit)} left`;
  bar.style.width = `${quota.limit ? (100 * quota.remaining) / quota.limit : 0}%`;
  return element('div', {
    role: 'meter', 'aria-label': quota.policy, 'aria-valuemin': 0, 'aria-valuemax': quota.limit,
    'aria-valuenow': quota.remaining, 'aria-valuetext': text,
  }, bar);
}

// Who has made a change, and why.
function why(changed) {
  return [changed.author && ` by ${changed.author}`, changed.reason && `: ${changed.reason}`].filter(Boolean).join('');
}

function reasonFor(label) {
  return element('input', { type: 'text', maxlength: 200, placeholder: 'Reason', 'aria-label': label });
}

function moreWhen(quota) {
  return quota.reset_seconds === undefined ? 'when a request ends' : `in ${duration(quota.reset_seconds)}`;
}

function windowText(quota) {
  return quota.window_seconds === undefined
    ? 'in flight' : `per ${quota.calendar ?? windowOf(quota.window_seconds)}`;
}

function quotaRow(key, quota) {
  const low = quota.limit && quota.remaining / quota.limit <= 0.2;
  const changed = quota.changed;
  const notes = [
    quota.blocked_seconds ? `blocked by its penalty for ${duration(quota.blocked_seconds)}` : '',
    quota.remaining === 0 ? `would refuse; more ${moreWhen(quota)}` : '',
    changed ? `changed for ${duration(changed.seconds)}${why(changed)}` : '',
  ].filter(Boolean).join('; ');
  const units = element('input', {
    type: 'number', min: 1, required: '', value: quota.units,
    'aria-label': `Units of ${quota.policy} ${windowText(quota)}`,
  });
  const time = times(`How long ${quota.policy} is changed`);
  const reason = reasonFor(`Why ${quota.policy} is changed`);
  const form = element('form', { class: 'line' }, units, ` ${windowText(quota)} for `, time,
    reason, element('button', {}, 'Set'));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    send(key, {
      action: 'set_quota', policy: quota.policy, units: Number(units.value), seconds: Number(time.value),
      reason: reason.value,
    });
  });
  if (changed) form.append(button('Restore', () => send(key, { action: 'restore_quota', policy: quota.policy })));
  return element('div', { class: low ? 'quota low' : 'quota' },
    element('p', {}, element('strong', {}, quota.policy), ` ${count(quota.remaining)} of ${count(quota.limit)} left`,
      element('span', { class: 'note' }, notes)),
    meter(quota), form);
}

function times(label) {
  const options = Object.entries(TIMES).map(([name, seconds]) => element('option', { value: seconds }, name));
  return element('select', { 'aria-label': label }, ...options);
}

function button(name, act) {
  const made = element('button', { type: 'button' }, name);
  made.addEventListener('click', act);
  return made;
}

function card(key) {
  const { blocked } = key;
  const time = times(`How long ${key.label} is blocked`);
  const reason = reasonFor(`Why ${key.label} is blocked`);
  const block = blocked || key.quotas.some((quota) => quota.blocked_seconds)
    ? [button('Unblock', () => send(key, { action: 'unblock' }))]
    : [button('Block', () => send(key, { action: 'block', seconds: Number(time.value), reason: reason.value })), ' for ', time, reason];
  return element('li', { class: blocked ? 'card spent' : 'card', 'data-key': key.fingerprint },
    element('h3', {}, element('span', { class: 'endpoint' }, key.label),
      element('span', { class: 'note' }, key.fingerprint.slice(0, 8))),
    element('p', { class: 'left' }, `${count(key.requests)} requests, ${count(key.refused)} refused`,
      blocked ? element('strong', { class: 'note' }, `Blocked for ${duration(blocked.seconds)}${why(blocked)}`) : ''),
    ...key.quotas.map((quota) => quotaRow(key, quota)),
    element('p', { class: 'line' }, button('Reset all', () => send(key, { action: 'reset' })), ...block));
}

function draw() {
  setText('updated', `Updated ${exactly(overview.at)}`);
  const order = document.querySelector('[name=order]:checked').value;
  const keys = overview[order].map(card);
  replaceIfChanged(byId('keys'), ...(keys.length ? keys : [element('li', { class: 'card' }, 'None')]));
  const changes = overview.changes.map((made) => element('tr', {},
    element('td', { class: 'time' }, exactly(made.at)), element('td', {}, made.operator),
    element('td', { class: 'endpoint' }, made.key.slice(0, 8)), element('td', {}, made.change)));
  replaceIfChanged(byId('lints'), ...overview.lints.map((lint) => element('li', {}, lint)));
  byId('lints-section').hidden = !overview.lints.length;
  const none = element('tr', {}, element('td', { class: 'empty', colspan: 4 }, 'None'));
  replaceIfChanged(byId('changes'), ...(changes.length ? changes : [none]));
}

// --- Asking ----------------------------------------------------------------------------------

async function ask(url, options = {}) {
  try {
    const response = await fetch(url, { cache: 'no-store', ...options, headers: { accept: 'application/json', ...options.headers } });
    const answer = await response.json();
    problem(response.ok ? '' : answer.detail ?? 'That did not work.');
    return response.ok ? answer : null;
  } catch {
    problem('The server does not answer. Trying again.');
    return null;
  }
}

async function send(key, change) {
  const headers = { 'content-type': 'application/json' };
  const done = await ask(`${base}/keys/${key.fingerprint}`, { method: 'POST', headers, body: JSON.stringify(change) });
  if (!done) return;
  setText('news', `Done: ${change.action.replace('_', ' ')}, ${key.label}`);
  document.activeElement?.blur();
  refresh();
}

// `x-api-key: 7`, a line for each header.
function headersOf(text) {
  const lines = text.split('\n').map((line) => line.trim()).filter(Boolean);
  return lines.map((line) => {
    const colon = line.indexOf(':');
    return [line.slice(0, Math.max(colon, 0)).trim(), line.slice(colon + 1).trim()];
  });
}

async function explain(event) {
  event.preventDefault();
  const { method, path, peer, headers } = event.target.elements;
  const asked = { method: method.value.trim(), path: path.value.trim(), headers: headersOf(headers.value) };
  if (peer.value.trim()) asked.peer = peer.value.trim();
  const post = { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(asked) };
  const answer = await ask(`${base}/explain`, post);
  setText('explanation', answer ? answer.text : '');
}

async function refresh() {
  clearTimeout(timer);
  // While the operator types or chooses, nothing is redrawn.
  const busy = byId('keys').contains(document.activeElement);
  const latest = busy || document.hidden ? null : await ask(base || '/');
  if (latest) {
    overview = latest;
    draw();
  }
  timer = setTimeout(refresh, REFRESH);
}

byId('explain').addEventListener('submit', explain);
document.querySelectorAll('[name=order]').forEach((choice) => choice.addEventListener('change', () => { if (overview) draw(); }));
document.addEventListener('visibilitychange', () => { if (!document.hidden) refresh(); });
refresh();
