
// Draws the JSON of this page's address, and asks for it again every two seconds.

const KINDS = {
  '2xx': '2xx', '3xx': '3xx', '4xx': '4xx', '5xx': '5xx',
  refused: 'refused', none: 'no answer',
};
const VERDICTS = {
  quota_exceeded: 'quota used up', cost_exceeds_quota: 'costs more than the quota',
  no_quota: 'no units in the plan',
  missing_key: 'no key', unreadable_key: 'unreadable key', undecided: 'left while held',
};
const SPANS = { hour: { minutes: 60, step: 1 }, day: { minutes: 1440, step: 15 } };
const MINUTE = 60_000;

let credential = {};
let usage = null;
let answered = 0;
let older = [];
let next = null;
let timer = 0;
let turn = 0;

function milliseconds(ms) {
  if (ms >= 1000) return `${(ms / 1000).toFixed(ms >= 10_000 ? 0 : 1)} s`;
  return ms >= 10 ? `${Math.round(ms)} ms` : `${ms.toFixed(1)} ms`;
}

// --- Quotas ----------------------------------------------------------------------------------

const RESETS = {
  fixed_window: 'resets in', token_bucket: 'next unit in', sliding_window: 'next unit in',
};

function resetText(quota) {
  if (quota.reset_seconds === undefined) return quota.used ? 'more when a request ends' : 'nothing used';
  const left = quota.reset_seconds - (performance.now() - answered) / 1000;
  const isFull = quota.used === 0 && quota.algorithm !== 'fixed_window';
  return isFull ? 'nothing used' : `${RESETS[quota.algorithm] ?? 'more in'} ${duration(left)}`;
}

function quotaCard() {
  const card = element('li', { class: 'card' },
    element('h3'),
    element('p', { class: 'left' }, element('strong'), element('span')),
    element('div', { role: 'meter', 'aria-valuemin': 0 }, element('div')),
    element('p', { class: 'more' }, element('span'), element('span', { class: 'reset' })));
  return card;
}

function drawQuotas() {
  const list = byId('quotas');
  while (list.children.length > usage.quotas.length) list.lastChild.remove();
  usage.quotas.forEach((quota, index) => {
    const card = list.children[index] ?? list.appendChild(quotaCard());
    const share = quota.limit ? quota.remaining / quota.limit : 0;
    card.className = `card${quota.remaining === 0 ? ' spent' : share <= 0.2 ? ' low' : ''}`;
    const text = (css, value) => { card.querySelector(css).textContent = value; };
    text('h3', quota.policy);
    text('.left strong', count(quota.remaining));
    const block = quota.blocked_seconds ? `, blocked for ${duration(quota.blocked_seconds)}` : '';
    text('.left span', ` of ${count(quota.limit)} left${block}`);
    const window = quota.window_seconds === undefined
      ? 'in flight' : `per ${quota.calendar ?? windowOf(quota.window_seconds)}`;
    text('.more span', `${count(quota.units)} ${window}, by ${quota.counted_by}`);
    const meter = card.querySelector('[role=meter]');
    meter.setAttribute('aria-label', quota.policy);
    meter.setAttribute('aria-valuemax', quota.limit);
    meter.setAttribute('aria-valuenow', quota.remaining);
    meter.setAttribute('aria-valuetext', `${count(quota.remaining)} of ${count(quota.limit)} left`);
    meter.firstChild.style.width = `${share * 100}%`;
  });
  const spent = usage.quotas.filter((quota) => quota.remaining === 0).map((quota) => quota.policy);
  setText('news', spent.length ? `Used up: ${spent.join(', ')}` : '');
}

function drawResets() {
  usage?.quotas.forEach((quota, index) => {
    const reset = byId('quotas').children[index]?.querySelector('.reset');
    const text = resetText(quota);
    if (reset && reset.textContent !== text) reset.textContent = text;
  });
}

// --- Requests --------------------------------------------------------------------------------

function bars() {
  const { minutes, step } = SPANS[usage.span];
  const last = Math.floor(usage.at / MINUTE / step) * step;
  const all = [];
  for (let start = last - minutes + step; start <= last; start += step) {
    all.push({ start: start * MINUTE, counts: {}, total: 0 });
  }
  for (const minute of usage.minutes) {
    const bar = all[Math.floor((minute.at / MINUTE - (last - minutes + step)) / step)];
    if (!bar) continue;
    for (const kind of Object.keys(KINDS)) {
      bar.counts[kind] = (bar.counts[kind] ?? 0) + (minute[kind] ?? 0);
      bar.total += minute[kind] ?? 0;
    }
  }
  return all;
}

// A round number, and so is half of it.
function ceiling(number) {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, number)));
  return [1, 2, 4, 6, 8, 10].map((factor) => factor * power).find((top) => top >= number);
}

function drawChart() {
  const all = bars();
  const { step } = SPANS[usage.span];
  const [width, height, left, bottom] = [byId('chart').clientWidth || 600, 200, 44, 22];
  const top = ceiling(Math.max(4, ...all.map((bar) => bar.total)));
  const y = (value) => 8 + (height - bottom - 8) * (1 - value / top);
  const wide = (width - left) / all.length;
  const nodes = [0, top / 2, top].flatMap((value) => [
    shape('line', { x1: left, x2: width, y1: y(value), y2: y(value) }),
    shape('text', { x: left - 8, y: y(value) + 4, 'text-anchor': 'end' }, count(value)),
  ]);
  all.forEach((bar, index) => {
    const x = left + index * wide;
    const labels = width < 500 ? 4 : 6;
    if (index % Math.round(all.length / labels) === 0) {
      nodes.push(shape('text', { x: x + 1, y: height - 5 }, clock(bar.start)));
    }
    if (!bar.total) return;
    const kinds = Object.keys(KINDS).filter((kind) => bar.counts[kind]);
    const title = kinds.map((kind) => `${KINDS[kind]}: ${count(bar.counts[kind])}`).join('\n');
    const group = shape('g', {}, shape('title', {}, `${clock(bar.start)}\n${title}`));
    let under = 0;
    for (const kind of kinds) {
      const [from, to] = [y(under), y(under += bar.counts[kind])];
      group.append(shape('rect', {
        class: `c-${kind}`, x: x + 0.5, width: Math.max(1, wide - 1.5), y: to, height: Math.max(1, from - to),
      }));
    }
    nodes.push(group);
  });
  replaceIfChanged(byId('chart'), ...nodes);
  byId('chart').setAttribute('viewBox', `0 0 ${width} ${height}`);

  const totals = Object.keys(KINDS).map((kind) => [kind, all.reduce((sum, bar) => sum + (bar.counts[kind] ?? 0), 0)]);
  const seen = totals.filter(([, total]) => total > 0);
  replaceIfChanged(byId('legend'),
    ...seen.map(([kind, total]) => element('span', {}, element('i', { class: `c-${kind}` }), `${KINDS[kind]} ${count(total)}`)),
    element('span', { class: 'unit' }, step === 1 ? 'per minute' : `per ${step} minutes`));
  const summary = seen.map(([kind, total]) => `${count(total)} ${KINDS[kind]}`).join(', ') || 'no requests';
  byId('chart').setAttribute('aria-label', `Requests of the last ${usage.span}: ${summary}`);

  const kinds = seen.map(([kind]) => kind);
  replaceIfChanged(byId('minutes').tHead, element('tr', {}, ...['Time', ...kinds.map((kind) => KINDS[kind])]
    .map((name) => element('th', { scope: 'col' }, name))));
  replaceIfChanged(byId('minutes').tBodies[0], ...all.filter((bar) => bar.total).reverse().map((bar) =>
    element('tr', {}, element('th', { scope: 'row', class: 'time' }, clock(bar.start)),
      ...kinds.map((kind) => element('td', { class: 'number' }, count(bar.counts[kind] ?? 0))))));
}

function endpoint({ method, endpoint: pattern }) {
  return element('td', { class: 'endpoint', role: 'cell' }, element('span', { class: 'method' }, `${method} `), pattern);
}

function drawEndpoints(id, endpoints, ...columns) {
  const rows = endpoints.map((known) => element('tr', {}, endpoint(known),
    ...columns.map((column) => element('td', { class: 'number' }, column(known)))));
  const none = element('tr', {}, element('td', { class: 'empty', colspan: columns.length + 1 }, 'None'));
  replaceIfChanged(byId(id), ...(rows.length ? rows : [none]));
}

// --- Log -------------------------------------------------------------------------------------

function kindOf(entry) {
  if (entry.refused) return 'refused';
  return entry.status ? `${Math.floor(entry.status / 100)}xx` : 'none';
}

function row(entry) {
  const status = element('span', { class: 'status' },
    element('i', { class: `c-${kindOf(entry)}` }), entry.status ? String(entry.status) : 'no answer');
  const notes = [
    entry.refused && `refused by ${entry.policy}`,
    entry.verdict !== 'quota_exceeded' && VERDICTS[entry.verdict],
    entry.held_ms > 0 && `held ${milliseconds(entry.held_ms)}`,
    entry.units > 1 && `${count(entry.units)} units`,
  ].filter(Boolean).join(', ');
  const note = notes ? [element('span', { class: 'note' }, notes)] : [];
  return element('tr', { role: 'row' },
    element('td', { class: 'time', role: 'cell' }, element('time', { datetime: new Date(entry.at).toISOString() }, exactly(entry.at))),
    endpoint(entry),
    element('td', { role: 'cell' }, status, ...note),
    element('td', { class: 'number', role: 'cell' }, milliseconds(entry.response_ms)));
}

function drawLog() {
  const entries = [...usage.log.entries, ...older];
  const none = element('tr', {}, element('td', { class: 'empty', colspan: 4 }, 'None yet'));
  replaceIfChanged(byId('entries'), ...(entries.length ? entries.map(row) : [none]));
  if (!older.length) next = usage.log.next;
  byId('older').hidden = next === null;
  byId('newest').hidden = !older.length;
}

// Shows the next older entries. From then on the newest ones stay as they are, or there would be a gap.
byId('older').addEventListener('click', async () => {
  const page = await ask(`${base}/log?limit=50&before=${next}`);
  if (!page) return;
  older.push(...page.entries);
  next = page.next;
  draw();
});

byId('newest').addEventListener('click', () => {
  older = [];
  byId('older').focus();
  refresh();
});

// --- Asking ----------------------------------------------------------------------------------

async function ask(url) {
  try {
    const response = await fetch(url, { headers: { accept: 'application/json', ...credential }, cache: 'no-store' });
    const answer = await response.json();
    if (response.ok) return answer;
    const wantsKey = Boolean(answer.header);
    byId('ask').hidden = !wantsKey;
    byId('ask').dataset.header = answer.header ?? '';
    byId('ask').dataset.prefix = answer.prefix ?? '';
    // As long as no key was given, there is no problem to show.
    problem(wantsKey && !Object.keys(credential).length ? '' : answer.detail ?? 'The usage cannot be shown.');
    if (response.status === 401 || response.status === 403) forget();
  } catch {
    problem('The server does not answer. Trying again.');
  }
  return null;
}

function forget() {
  usage = null;
  older = [];
  credential = {};
  byId('usage').hidden = true;
  setText('key', '');
  setText('updated', '');
}

function draw() {
  byId('usage').hidden = false;
  byId('ask').hidden = true;
  setText('key', usage.key);
  setText('updated', `Updated ${exactly(usage.at)}`);
  const blocked = usage.blocked_seconds;
  problem(blocked === null ? '' : `This key is blocked for ${duration(blocked)}.`);
  drawQuotas();
  drawResets();
  drawChart();
  drawEndpoints('slowest', usage.slowest, (known) => milliseconds(known.mean_ms), (known) => milliseconds(known.longest_ms));
  drawEndpoints('most-refused', usage.most_refused, (known) => count(known.refused), (known) => count(known.requests));
  drawLog();
}

async function refresh() {
  clearTimeout(timer);
  const mine = ++turn;
  const span = document.querySelector('[name=span]:checked').value;
  const latest = document.hidden ? null : await ask(`${base || '/'}?span=${span}`);
  if (mine !== turn) return; // a later call has asked again
  if (latest) {
    const shown = usage;
    usage = latest;
    answered = performance.now();
    if (older.length && shown) usage.log = shown.log;
    draw();
  }
  if (byId('ask').hidden) timer = setTimeout(refresh, REFRESH);
}

byId('ask').addEventListener('submit', (event) => {
  event.preventDefault();
  const { header, prefix } = byId('ask').dataset;
  try {
    credential = Object.fromEntries(new Headers({ [header]: prefix + byId('credential').value.trim() }));
  } catch {
    problem('No API key has such characters.');
    return;
  }
  byId('credential').value = '';
  byId('ask').hidden = true;
  refresh();
});
document.querySelectorAll('[name=span]').forEach((choice) => choice.addEventListener('change', refresh));
document.addEventListener('visibilitychange', () => { if (!document.hidden && usage) refresh(); });
new ResizeObserver(() => { if (usage) drawChart(); }).observe(byId('chart'));
setInterval(drawResets, 1000);
refresh();
