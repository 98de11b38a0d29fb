// The tables below the chart: what came of the runs that are compared, and in which settings they
// differ. The results can be put in the order of any column.
const COLUMNS = [
  ['name', 'run', (r) => r.name], ['loss', 'final loss', (r) => short(r.loss), 'The mean of the last ten that were logged'],
  ['best_eval_loss', 'best evaluation', (r) => r.best_eval_loss == null ? '–' : short(r.best_eval_loss) + ' at ' + r.best_step],
  ['steps', 'steps', (r) => r.steps == null ? '–' : r.steps], ['seconds', 'time', (r) => r.seconds == null ? '–' : clock(r.seconds)],
  ['tokens_per_second', 'tokens/s', (r) => r.tokens_per_second == null ? '–' : Math.round(r.tokens_per_second)],
];
let compared = null, sortBy = 'best_eval_loss', downward = false;

async function compare() {
  const ids = [followed, ...Object.keys(over)];
  if (ids.length < 2) { compared = null; drawCompared(); return; }
  const got = await server.compared({ runs: ids });
  if (got) { compared = got; drawCompared(); }
}

function sorted() {
  const rows = compared.results.map((result, n) => ({ result, values: compared.differing.map((d) => d.values[n]) }));
  const field = compared.differing.find((d) => d.label === sortBy);
  const value = (r) => field ? r.values[compared.differing.indexOf(field)] : r.result[sortBy];
  const order = (a, b) => typeof a === 'string' && isNaN(a) ? String(a).localeCompare(String(b)) : a - b;
  return rows.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    // What has no value yet comes last, either way.
    if (x == null || y == null) return (x == null) - (y == null);
    return (downward ? -1 : 1) * order(x, y);
  });
}

function heading(key, words, title) {
  const on = key === sortBy;
  return make('th', { scope: 'col', 'aria-sort': on ? (downward ? 'descending' : 'ascending') : 'none' },
    make('button', { type: 'button', title, 'data-sort': key, onclick: () => { downward = on && !downward; sortBy = key; drawCompared(key); } },
      words + (on ? (downward ? ' ↓' : ' ↑') : '')));
}

function drawCompared(focus) {
  const box = $('compared');
  box.hidden = !compared;
  if (!compared) { box.replaceChildren(); return; }
  const fields = compared.differing;
  const color = (id) => id === followed ? 'var(--tuned)' : (over[id] || {}).color || 'transparent';
  const rows = sorted().map(({ result, values }) => make('tr', { class: result.id === followed ? 'chosen-row' : '' },
    make('td', {}, make('i', { class: 'swatch', style: 'background:' + color(result.id) }),
      make('button', { type: 'button', class: 'plain-link', title: result.id, onclick: () => show(result.id) }, result.name)),
    ...values.map((value) => make('td', {}, value)),
    ...COLUMNS.slice(1).map(([, , shown]) => make('td', { class: 'nowrap' }, String(shown(result))))));
  box.replaceChildren(
    make('div', { class: 'head' }, make('h3', {}, compared.results.length + ' runs compared'),
      make('button', { type: 'button', class: 'act quiet', onclick: () => { over = {}; compare(); list(); redraw(); } }, 'Clear')),
    make('p', { class: 'soft' }, fields.length ? 'They differ in ' + fields.map((d) => d.label).join(', ') + '. All other settings are the same.' : 'Their settings are the same.'),
    make('div', { class: 'wide' }, make('table', { class: 'plain results' },
      make('thead', {}, make('tr', {}, heading('name', 'run'), ...fields.map((d) => heading(d.label, d.label)),
        ...COLUMNS.slice(1).map(([key, words, , title]) => heading(key, words, title)))),
      make('tbody', {}, ...rows))));
  if (focus) box.querySelector('[data-sort="' + CSS.escape(focus) + '"]').focus();
}

// Another of them comes to the front; the one that was there is laid over it.
async function show(id) {
  if (id === followed) return;
  const before = followed, others = Object.keys(over);
  follow(id); trigger('select', { run: id });
  for (const other of [before, ...others]) await lay(other, true);
  list(); await redraw(); compare();
}
