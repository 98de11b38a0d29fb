// The view of runs. This file: the followed run's chart. It owns one Plotly chart: made once, fed with
// what is new, so that a zoom stays and a tick costs the same at any length.
const $ = (name) => element.querySelector('[data-part="' + name + '"]');
const PANELS = [
  { key: 'loss', title: 'loss' }, { key: 'learning_rate', title: 'learning rate' },
  { key: 'grad_norm', title: 'gradient norm' }, { key: 'tokens_per_second', title: 'tokens/s' },
];
// What only some trainers tell has a panel where a run tells it.
const MORE = [
  { key: 'reward', title: 'reward' }, { key: 'rewards/margins', title: 'reward margin' }, { key: 'rewards/accuracies', title: 'pairs right' },
  { key: 'margin', title: 'margin' }, { key: 'accuracy', title: 'pairs right' }, { key: 'rewards/chosen', title: 'reward, better' },
  { key: 'rewards/rejected', title: 'reward, worse' }, { key: 'kl', title: 'KL' }, { key: 'nll_loss', title: 'loss of the better' },
  { key: 'reward_std', title: 'spread of rewards' }, { key: 'completions/mean_length', title: 'answer length' },
  { key: 'completions/clipped_ratio', title: 'answers cut off' }, { key: 'rewards/exact_match/mean', title: 'right answers' },
  { key: 'rewards/pattern/mean', title: 'pattern found' }, { key: 'rewards/json/mean', title: 'valid JSON' },
  { key: 'rewards/length/mean', title: 'length wanted' }, { key: 'rewards/reward_model/mean', title: 'reward model' },
];
let shown = PANELS.slice(1);
function panels() {
  const before = shown.length;
  shown = PANELS.slice(1).concat(MORE.filter((panel) => points.some((p) => p[panel.key] != null)));
  return shown.length !== before;
}
const MOST = 6000;                      // points kept in a trace; beyond it every second one goes
const LAID_OVER = ['#0f8b8d', '#a05195', '#8a6d00', '#d45087', '#3f7d20', '#5f6caf', '#b5651d', '#3b7ea1'];
const GOING = ['starting', 'running', 'stopping'];
let followed = null, offset = 0, state = {}, points = [], evals = [], over = {}, ready = false, busy = false;
let smoothing = 0.6, logScale = false, clip = false;

const css = (name) => getComputedStyle(element.querySelector('.live')).getPropertyValue(name).trim();
const narrow = () => element.clientWidth < 640;
const clock = (s) => s < 60 ? Math.round(s) + ' s' : s < 3600 ? Math.floor(s / 60) + ' min ' + Math.round(s % 60) + ' s' :
  Math.floor(s / 3600) + ' h ' + Math.floor(s % 3600 / 60) + ' min';
const short = (v) => typeof v !== 'number' ? '–' : Math.abs(v) >= 1e-2 ? String(+v.toPrecision(4)) : v === 0 ? '0' : v.toExponential(1).replace('e+', 'e');

function make(tag, about, ...inside) {
  const made = document.createElement(tag);
  Object.entries(about || {}).forEach(([name, value]) => {
    if (name === 'class') made.className = value;
    else if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, '');
    else if (value != null && value !== false) made.setAttribute(name, value);
  });
  made.append(...inside.filter((part) => part != null));
  return made;
}

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
  shown.forEach((panel, i) => out.push({ name: panel.title, x, y: column(points, panel.key), text, mode: 'lines',
    line: { color: css('--base'), width: 1.5 }, xaxis: 'x' + (i + 2), yaxis: 'y' + (i + 2), connectgaps: true,
    hovertemplate: panel.title + ' %{y:.4g}<br>%{text}<extra></extra>' }));
  Object.values(over).forEach((other) => {
    const name = plain(nameOf(other.id));
    out.push({ name, x: column(other.points, 'step'), y: smooth(column(other.points, 'loss')), mode: 'lines',
      line: { color: other.color, width: 2 }, connectgaps: true, hovertemplate: name + ' %{y:.4f}<br>step %{x}<extra></extra>' });
    out.push({ name: name + ', evaluation', x: column(other.evals, 'step'), y: column(other.evals, 'eval_loss'),
      mode: 'markers', marker: { color: other.color, size: 7, symbol: 'diamond' },
      hovertemplate: name + ' evaluation %{y:.4f}<br>step %{x}<extra></extra>' });
  });
  return out;
}

function layout() {
  const ink = css('--soft'), grid = css('--line'), small = narrow();
  // With three panels the whole is 1; more of them make the chart taller.
  const rows = small ? shown.length : Math.ceil(shown.length / 3), whole = small ? 0.505 + 0.165 * rows : 0.62 + 0.38 * rows;
  const axis = (extra) => ({ gridcolor: grid, zerolinecolor: grid, linecolor: grid, tickfont: { size: 11 }, ...extra });
  const out = { paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', showlegend: false, uirevision: 'kept',
    margin: { l: 48, r: 12, t: 22, b: 34 }, font: { color: ink, size: 12 }, hovermode: 'closest', annotations: [],
    xaxis: axis({ domain: [0, 1], anchor: 'y' }),
    yaxis: axis({ domain: [1 - (small ? 0.44 : 0.62) / whole, 1], type: logScale ? 'log' : 'linear', ...range() }) };
  const note = (text, x, y) => out.annotations.push({ text, x, y, xref: 'paper', yref: 'paper', showarrow: false,
    xanchor: 'left', yanchor: 'bottom', font: { size: 12, color: ink } });
  note('loss', 0, 1);
  shown.forEach((panel, i) => {
    const row = small ? i : Math.floor(i / 3), wide = small ? [0, 1] : [i % 3 * 0.36, i % 3 * 0.36 + 0.28];
    const up = small ? 0.165 * (rows - 1 - row) + 0.04 : 0.38 * (rows - 1 - row);
    const tall = [up / whole, (up + (small ? 0.1 : 0.24)) / whole];
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

// Plotly reads tags and placeholders in its texts.
const plain = (text) => text.replace(/[<>&%{}]/g, ' ');

async function redraw() {
  if (!points.length && !evals.length && !Object.values(over).some((o) => o.points.length)) {
    $('chart').hidden = $('knobs').hidden = true; ready = false;
    return;
  }
  await plotly();
  $('chart').hidden = $('knobs').hidden = false;
  panels();
  const rows = narrow() ? shown.length : Math.ceil(shown.length / 3);
  $('chart').style.height = Math.round(narrow() ? 640 * (0.505 + 0.165 * rows) : 560 * (0.62 + 0.38 * rows)) + 'px';
  // Under Plotly.react and a constant uirevision the person's zoom stays.
  await window.Plotly.react($('chart'), traces(), layout(), { responsive: true, displaylogo: false,
    modeBarButtonsToRemove: ['lasso2d', 'select2d'], toImageButtonOptions: { filename: followed || 'atelier', scale: 2 } });
  ready = true;
  element.dataset.points = points.length;
}

// New points only. All panels take the same x; the smoothed line goes on from its last value.
async function extend(fresh, freshEvals) {
  if (!ready || panels()) return redraw();
  const chart = $('chart'), x = column(fresh, 'step'), text = fresh.map(hover);
  const ys = chart.data[1].y, held = ys.length ? ys[ys.length - 1] : null;
  if (fresh.length) {
    const lines = [0, 1, ...shown.map((_, i) => i + 3)], update = { x: lines.map(() => x), y: [column(fresh, 'loss'), smooth(column(fresh, 'loss'), held),
      ...shown.map((p) => column(fresh, p.key))] };
    await window.Plotly.extendTraces(chart, { ...update, text: lines.map(() => text) }, lines);
  }
  if (freshEvals.length) {
    await window.Plotly.extendTraces(chart, { x: [column(freshEvals, 'step')], y: [column(freshEvals, 'eval_loss')] }, [2]);
  }
  element.dataset.points = points.length;
}

function take(list) {
  return [list.filter((p) => p.loss != null), list.filter((p) => p.eval_loss != null)];
}

// A run that is laid over the chart: all of its points at first, then what is new of it.
async function lay(id, on) {
  if (!on) delete over[id];
  else if (id !== followed && !over[id]) {
    const used = Object.values(over).map((o) => o.color);
    over[id] = { id, offset: 0, points: [], evals: [], color: LAID_OVER.find((c) => !used.includes(c)) || LAID_OVER[0] };
    await freshen(over[id]);
  }
}
async function freshen(other) {
  const got = await ask('tick', { run: other.id, offset: other.offset });
  if (!got || got.gone || over[other.id] !== other) { if (got && got.gone) delete over[other.id]; return false; }
  const [p, e] = take(got.points);
  if (got.back != null) {
    other.points = other.points.filter((x) => x.step <= got.back); other.evals = other.evals.filter((x) => x.step <= got.back);
  }
  other.points = thin(other.points.concat(p)); other.evals = other.evals.concat(e);
  other.offset = got.offset; other.status = got.state.status;
  return p.length + e.length > 0;
}
