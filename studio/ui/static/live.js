// The view of runs: the list at the left, the followed run's chart at the right. It owns one Plotly
// chart: made once, fed with what is new, so that a zoom stays and a tick costs the same at any length.
const $ = (name) => element.querySelector('[data-part="' + name + '"]');
const PANELS = [
  { key: 'loss', title: 'loss' }, { key: 'learning_rate', title: 'learning rate' },
  { key: 'grad_norm', title: 'gradient norm' }, { key: 'tokens_per_second', title: 'tokens/s' },
];
const MOST = 6000;                      // points kept in a trace; beyond it every second one goes
const LAID_OVER = ['#0f8b8d', '#a05195', '#8a6d00', '#d45087', '#3f7d20', '#5f6caf'];
let runs = [], followed = null, offset = 0, state = {}, points = [], evals = [], over = {}, ready = false, busy = false;
let smoothing = 0.6, logScale = false, clip = false, drawn = '';

const css = (name) => getComputedStyle(element.querySelector('.live')).getPropertyValue(name).trim();
const narrow = () => element.clientWidth < 640;
const clock = (s) => s < 60 ? Math.round(s) + ' s' : s < 3600 ? Math.floor(s / 60) + ' min ' + Math.round(s % 60) + ' s' :
  Math.floor(s / 3600) + ' h ' + Math.floor(s % 3600 / 60) + ' min';
const short = (v) => v == null ? '–' : Math.abs(v) >= 1e-2 ? String(+v.toPrecision(4)) : v === 0 ? '0' : v.toExponential(1).replace('e+', 'e');

function plotly() {
  if (window.Plotly) return Promise.resolve();
  if (!window.atelierPlotly) {
    window.atelierPlotly = new Promise((done, fail) => {
      const tag = document.createElement('script');
      tag.src = props.plotly; tag.onload = done; tag.onerror = fail;
      document.head.appendChild(tag);
    });
  }
  return window.atelierPlotly;
}

function smooth(values, start) {
  let held = start;
  return values.map((v) => v == null ? null : (held = held == null ? v : smoothing * held + (1 - smoothing) * v));
}
function thin(list) {
  if (list.length <= MOST) return list;
  return list.filter((p, i) => i % 2 === 0 || i === list.length - 1);
}
function hover(p) {
  return 'step ' + p.step + (p.epoch != null ? ', epoch ' + (+p.epoch).toFixed(2) : '') +
    (p.num_tokens != null ? '<br>' + Math.round(p.num_tokens).toLocaleString('en') + ' tokens seen' : '') +
    (p.seconds != null ? '<br>after ' + clock(p.seconds) : '');
}
function column(list, key) { return list.map((p) => p[key] == null ? null : p[key]); }

function traces() {
  const tuned = css('--tuned'), orange = css('--eval'), x = column(points, 'step'), text = points.map(hover);
  const out = [
    { name: 'loss', x, y: column(points, 'loss'), text, mode: 'lines', line: { color: tuned, width: 1 }, opacity: 0.35,
      hovertemplate: 'loss %{y:.4f}<br>%{text}<extra></extra>', connectgaps: true },
    { name: 'loss, smoothed', x, y: smooth(column(points, 'loss')), text, mode: 'lines', line: { color: tuned, width: 2.5 },
      hoverinfo: 'skip', connectgaps: true },
    { name: 'evaluation loss', x: column(evals, 'step'), y: column(evals, 'eval_loss'), mode: 'markers+lines',
      marker: { color: orange, size: 8 }, line: { color: orange, width: 1, dash: 'dot' },
      hovertemplate: 'evaluation loss %{y:.4f}<br>step %{x}<extra></extra>' },
  ];
  PANELS.slice(1).forEach((panel, i) => out.push({ name: panel.title, x, y: column(points, panel.key), text, mode: 'lines',
    line: { color: css('--base'), width: 1.5 }, xaxis: 'x' + (i + 2), yaxis: 'y' + (i + 2), connectgaps: true,
    hovertemplate: panel.title + ' %{y:.4g}<br>%{text}<extra></extra>' }));
  Object.values(over).forEach((other) => {
    out.push({ name: other.name, x: column(other.points, 'step'), y: smooth(column(other.points, 'loss')), mode: 'lines',
      line: { color: other.color, width: 2 }, connectgaps: true, hovertemplate: other.name + ' %{y:.4f}<br>step %{x}<extra></extra>' });
    out.push({ name: other.name + ', evaluation', x: column(other.evals, 'step'), y: column(other.evals, 'eval_loss'),
      mode: 'markers', marker: { color: other.color, size: 7, symbol: 'diamond' },
      hovertemplate: other.name + ' evaluation %{y:.4f}<br>step %{x}<extra></extra>' });
  });
  return out;
}

function layout() {
  const ink = css('--soft'), grid = css('--line'), small = narrow();
  const axis = (extra) => ({ gridcolor: grid, zerolinecolor: grid, linecolor: grid, tickfont: { size: 11 }, ...extra });
  const out = { paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', showlegend: false, uirevision: 'kept',
    margin: { l: 48, r: 12, t: 22, b: 34 }, font: { color: ink, size: 12 }, hovermode: 'closest', annotations: [],
    xaxis: axis({ domain: [0, 1], anchor: 'y' }),
    yaxis: axis({ domain: small ? [0.6, 1] : [0.38, 1], type: logScale ? 'log' : 'linear', ...range() }) };
  const note = (text, x, y) => out.annotations.push({ text, x, y, xref: 'paper', yref: 'paper', showarrow: false,
    xanchor: 'left', yanchor: 'bottom', font: { size: 12, color: ink } });
  note('loss', 0, 1);
  PANELS.slice(1).forEach((panel, i) => {
    const wide = small ? [0, 1] : [i * 0.36, i * 0.36 + 0.28];
    const tall = small ? [0.4 - i * 0.18 - 0.1, 0.4 - i * 0.18] : [0, 0.24];
    if (small) { tall[0] -= 0.02; tall[1] -= 0.02; }
    out['xaxis' + (i + 2)] = axis({ domain: wide, anchor: 'y' + (i + 2), matches: 'x', nticks: 5 });
    out['yaxis' + (i + 2)] = axis({ domain: tall, anchor: 'x' + (i + 2), nticks: 4, exponentformat: 'e' });
    note(panel.title, wide[0], tall[1]);
  });
  return out;
}
function range() {
  if (!clip || points.length < 20) return { autorange: true };
  const sorted = column(points, 'loss').filter((v) => v != null).sort((a, b) => a - b);
  const low = sorted[Math.floor(sorted.length * 0.02)], high = sorted[Math.floor(sorted.length * 0.95)], pad = (high - low) * 0.1 || 0.1;
  const ends = [Math.max(low - pad, logScale ? low / 2 : -Infinity), high + pad];
  return { autorange: false, range: logScale ? ends.map(Math.log10) : ends };
}

async function redraw() {
  if (!points.length && !evals.length) return;
  await plotly();
  $('chart').hidden = false;
  // Under Plotly.react and a constant uirevision the person's zoom stays.
  await window.Plotly.react($('chart'), traces(), layout(), { responsive: true, displaylogo: false,
    modeBarButtonsToRemove: ['lasso2d', 'select2d'], toImageButtonOptions: { filename: followed || 'atelier', scale: 2 } });
  ready = true;
  element.dataset.points = points.length;
}

// New points only. All four panels take the same x; the smoothed line goes on from its last value.
async function extend(fresh, freshEvals) {
  if (!ready) return redraw();
  const chart = $('chart'), x = column(fresh, 'step'), text = fresh.map(hover);
  const ys = chart.data[1].y, held = ys.length ? ys[ys.length - 1] : null;
  if (fresh.length) {
    const update = { x: [x, x, x, x, x], y: [column(fresh, 'loss'), smooth(column(fresh, 'loss'), held),
      ...PANELS.slice(1).map((p) => column(fresh, p.key))] };
    await window.Plotly.extendTraces(chart, { ...update, text: [text, text, text, text, text] }, [0, 1, 3, 4, 5]);
  }
  if (freshEvals.length) {
    await window.Plotly.extendTraces(chart, { x: [column(freshEvals, 'step')], y: [column(freshEvals, 'eval_loss')] }, [2]);
  }
  element.dataset.points = points.length;
}

function take(list) {
  return [list.filter((p) => p.loss != null), list.filter((p) => p.eval_loss != null)];
}

function head() {
  const s = state;
  element.dataset.status = s.status || '';
  element.dataset.run = followed || '';
  $('empty').hidden = !!followed; $('body').hidden = !followed;
  if (!followed) return;
  $('title').textContent = s.name || followed;
  $('status').textContent = s.words || '';
  $('status').className = s.status === 'failed' || s.status === 'interrupted' ? 'bad' : 'soft';
  const share = s.max_steps ? 100 * s.step / s.max_steps : s.total ? 100 * (s.done || 0) / s.total : 0;
  $('progress').style.width = Math.min(100, share) + '%';
  $('progress').parentElement.setAttribute('aria-valuenow', Math.round(share));
  const going = ['created', 'starting', 'running', 'stopping'].includes(s.status);
  const numbers = [
    [s.max_steps ? s.step + ' of ' + s.max_steps : '–', 'step'], [short(s.loss), 'loss'], [short(s.eval_loss), 'evaluation loss'],
    [s.tokens_per_second == null ? '–' : Math.round(s.tokens_per_second), 'tokens/s'],
    [s.elapsed == null ? '–' : clock(s.elapsed), 'elapsed'],
  ];
  if (going) numbers.push([s.remaining == null ? '–' : clock(s.remaining), 'remaining']);
  $('numbers').innerHTML = '';
  numbers.forEach(([value, label]) => {
    const box = document.createElement('div'), small = document.createElement('small');
    small.textContent = label; box.append(small, String(value)); $('numbers').append(box);
  });
  const problem = $('problem');
  problem.hidden = !s.problem;
  if (s.problem) {
    problem.textContent = s.problem.message + ' ' + s.problem.hint;
    if (s.problem.stage) problem.textContent += ' (It happened while: ' + s.problem.stage + '.)';
  }
  const notes = $('notes');
  notes.hidden = !(s.notes && s.notes.length);
  notes.textContent = (s.notes || []).join(' ');
}

function list() {
  const key = JSON.stringify([runs, followed, Object.keys(over)]);
  if (key === drawn) return;
  drawn = key;
  const box = $('runs');
  box.innerHTML = '';
  runs.forEach((run) => {
    const row = document.createElement('div'); row.className = 'run' + (run.id === followed ? ' on' : '');
    const open = document.createElement('button'); open.type = 'button'; open.dataset.run = run.id;
    open.setAttribute('aria-pressed', run.id === followed);
    const name = document.createElement('b'), dot = document.createElement('i'), about = document.createElement('span');
    dot.className = 'dot ' + run.status; name.append(dot, run.name); about.className = 'soft';
    about.textContent = run.when + ' · ' + run.status + (run.eval_loss != null ? ' · eval ' + short(run.eval_loss) :
      run.loss != null ? ' · loss ' + short(run.loss) : '');
    open.append(name, about);
    open.addEventListener('click', () => { follow(run.id); trigger('select', { run: run.id }); });
    row.append(open);
    if (run.id !== followed) {
      const label = document.createElement('label'), mark = document.createElement('input');
      mark.type = 'checkbox'; mark.checked = run.id in over; mark.setAttribute('aria-label', 'Lay ' + run.id + ' over the chart');
      mark.addEventListener('change', () => lay(run, mark.checked));
      label.append(mark, 'overlay'); row.append(label);
    }
    box.append(row);
  });
  if (!runs.length) box.innerHTML = '<p class="soft">None yet.</p>';
  const legend = $('legend');
  legend.innerHTML = '';
  Object.values(over).forEach((other) => {
    const item = document.createElement('span'), bar = document.createElement('i');
    bar.style.background = other.color; item.append(bar, other.name); legend.append(item);
  });
}

async function lay(run, on) {
  delete over[run.id];
  if (on) {
    const got = await server.tick({ run: run.id, offset: 0 });
    if (!got || got.gone) return;
    const [p, e] = take(got.points), used = Object.values(over).map((o) => o.color);
    over[run.id] = { name: run.id, points: p, evals: e, color: LAID_OVER.find((c) => !used.includes(c)) || LAID_OVER[0] };
  }
  list();
  await redraw();
}

function follow(id) {
  if (!id || id === followed) return;
  followed = id; offset = 0; points = []; evals = []; state = {}; ready = false; delete over[id];
  $('chart').hidden = true;
  if (window.Plotly) window.Plotly.purge($('chart'));
  head(); list(); tick();
}

async function tick() {
  if (!followed || busy) return;
  busy = true;
  const id = followed;
  try {
    const got = await server.tick({ run: id, offset });
    if (!got || id !== followed) return;
    if (got.gone) { followed = null; head(); await runList(); return; }
    offset = got.offset; state = { ...state, ...got.state };
    const [fresh, freshEvals] = take(got.points);
    if (got.back != null) {
      points = points.filter((p) => p.step <= got.back); evals = evals.filter((p) => p.step <= got.back); ready = false;
    }
    const first = !points.length && !evals.length, before = points.length;
    points = thin(points.concat(fresh)); evals = evals.concat(freshEvals);
    head();
    if (fresh.length || freshEvals.length) {
      if (first || points.length !== before + fresh.length) await redraw(); else await extend(fresh, freshEvals);
    }
    if ($('log-box').open) await log();
  } finally { busy = false; }
}
async function log() {
  const got = await server.log({ run: followed });
  const box = $('log'), low = box.scrollTop + box.clientHeight >= box.scrollHeight - 8;
  if (got) box.textContent = got.text || 'Nothing was written yet.';
  if (low) box.scrollTop = box.scrollHeight;
}
async function runList() {
  const got = await server.runs_now('');
  if (!got) return;
  runs = got.runs;
  // The buttons belong to the run in view: say which.
  if (!followed && runs.length) { follow(runs[0].id); trigger('select', { run: runs[0].id }); }
  list(); head();
}

$('smooth').addEventListener('input', (e) => { smoothing = +e.target.value; redraw(); });
$('log-scale').addEventListener('change', (e) => { logScale = e.target.checked; redraw(); });
$('clip').addEventListener('change', (e) => { clip = e.target.checked; redraw(); });
$('log-box').addEventListener('toggle', () => { if ($('log-box').open) log(); });
window.addEventListener('atelier-theme', () => setTimeout(redraw, 50));
watch('value', () => follow(props.value));
follow(props.value);
head();
runList();
let beats = 0;
const timer = setInterval(() => {
  if (!element.isConnected) { clearInterval(timer); return; }
  if (document.hidden || !element.offsetParent) return;
  const going = ['created', 'starting', 'running', 'stopping'].includes(state.status);
  if (going || beats % 3 === 0) tick();
  if (beats % 3 === 0) runList();
  beats += 1;
// On a laptop the page and the run share the cores: no more often than a step takes there.
}, 1500);
