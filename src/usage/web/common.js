// Shared by the pages. All that they show is set as text, never as markup.

const REFRESH = 2000;
const SVG = 'http://www.w3.org/2000/svg';
const WINDOWS = { 1: 'second', 60: 'minute', 3600: 'hour', 86400: 'day' };
const HOURS = { hourCycle: 'h23', hour: '2-digit', minute: '2-digit' };

const byId = (id) => document.getElementById(id);
const base = location.pathname.replace(/\/$/, '');
const count = (number) => number.toLocaleString();
const clock = (time) => new Date(time).toLocaleTimeString([], HOURS);
const exactly = (time) => new Date(time).toLocaleTimeString([], { ...HOURS, second: '2-digit' });
const windowOf = (seconds) => WINDOWS[seconds] ?? duration(seconds);

function duration(seconds) {
  const whole = Math.max(0, Math.ceil(seconds));
  const [d, h, m, s] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60, whole % 60];
  const parts = [[d, 'd'], [h, 'h'], [m, 'min'], [s, 's']].filter(([number]) => number > 0);
  return parts.slice(0, 2).map(([number, unit]) => `${number} ${unit}`).join(' ') || '0 s';
}

function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function shape(name, attributes, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// Replaces children only if they differ, so that screen readers and selections keep their place.
function replaceIfChanged(parent, ...children) {
  const same = parent.childNodes.length === children.length
    && children.every((child, index) => parent.childNodes[index].isEqualNode(child));
  if (!same) parent.replaceChildren(...children);
}

function setText(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

function problem(text) {
  setText('problem', text);
  byId('problem').hidden = !text;
}
