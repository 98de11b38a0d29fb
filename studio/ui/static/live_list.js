// The list at the left: what trains, what waits in its order, and all runs, searched.
let runs = [], told = { found: [], queue: [], total: 0 }, drawn = '', starred = false;

function rowOf(id) { return runs.find((run) => run.id === id); }
function nameOf(id) { const run = rowOf(id); return run ? run.name : id; }

// Made when there is something to search: a handful of runs needs no search.
const search = make('input', { type: 'search', 'data-part': 'search', placeholder: 'Search runs', 'aria-label': 'Search by name, tag, note or status' });
const only = make('button', { type: 'button', class: 'act', 'aria-pressed': 'false', 'aria-label': 'Only starred runs', title: 'Only starred runs' }, '☆');
const FEW = 4;

async function runList(anew = 0) {
  const got = await ask('runs', { search: search.value, star: starred, with: followed || '', anew });
  if (!got) return;
  runs = got.runs; told = got;
  if (told.total > FEW && !search.isConnected) $('find').append(search, only);
  // The buttons belong to the run in view: say which.
  if (!followed && runs.length) { follow(got.active || runs[0].id); trigger('select', { run: followed }); }
  list(); head();
}

function list() {
  const key = JSON.stringify([told, followed, Object.keys(over), starred]);
  if (key === drawn) return;
  drawn = key;
  const held = document.activeElement, box = $('runs');
  const kept = box.contains(held) ? held.dataset.key : null;
  box.replaceChildren();
  const part = (words, rows) => { if (rows.length) box.append(make('h4', {}, words), ...rows); };
  const queue = told.queue.map(rowOf).filter(Boolean);
  if (told.active && rowOf(told.active)) part('Trains now', [row(rowOf(told.active))]);
  part('Waits', queue.map((run, n) => row(run, n)));
  const rest = told.found.filter((id) => id !== told.active && !told.queue.includes(id)).map(rowOf).filter(Boolean);
  const searched = search.value.trim() || starred;
  part(searched ? told.matching + ' of ' + told.total : told.active || queue.length ? 'Ended' : 'All', rest.map((run) => row(run)));
  if (searched && rest.length > 1) {
    box.append(make('button', { type: 'button', class: 'act', 'data-key': 'all', onclick: () => compareAll(rest.map((r) => r.id)) },
      'Compare these ' + Math.min(rest.length, LAID_OVER.length + 1)));
  }
  if (told.matching > told.found.length) box.append(make('p', { class: 'soft' }, 'The newest ' + told.found.length + ' are shown: search for the others.'));
  if (!runs.length) box.append(make('p', { class: 'soft' }, 'None yet.'));
  else if (searched && !told.matching) box.append(make('p', { class: 'soft' }, 'No run matches.'));
  if (kept) { const again = box.querySelector('[data-key="' + CSS.escape(kept) + '"]'); if (again) again.focus({ preventScroll: true }); }
  const legend = $('legend');
  legend.replaceChildren(...Object.values(over).map((other) => make('span', {}, make('i', { style: 'background:' + other.color }), nameOf(other.id))));
}

function row(run, place) {
  const about = [run.when, run.status === 'queued' ? null : run.status,
    typeof run.eval_loss === 'number' ? 'eval ' + short(run.eval_loss) : typeof run.loss === 'number' ? 'loss ' + short(run.loss) : null];
  const open = make('button', { type: 'button', 'data-run': run.id, 'data-key': 'open ' + run.id, 'aria-pressed': String(run.id === followed),
    onclick: () => { follow(run.id); trigger('select', { run: run.id }); } },
    make('b', {}, make('i', { class: 'dot ' + run.status }), place == null ? null : (place + 1) + '. ',
      run.star ? make('span', { class: 'star', 'aria-label': 'starred' }, '★ ') : null, run.name),
    make('span', { class: 'soft' }, about.filter(Boolean).join(' · ')),
    (run.tags || []).length ? make('span', { class: 'tags' }, ...run.tags.map((tag) => make('span', { class: 'tag' }, tag))) : null);
  return make('div', { class: 'run' + (run.id === followed ? ' on' : '') }, open,
    place == null ? beside(run) : turns(run, place));
}

// Laid over the chart of the run in view, and into the tables below it.
function beside(run) {
  if (run.id === followed) return null;
  const mark = make('input', { type: 'checkbox', 'data-key': 'over ' + run.id, 'aria-label': 'Compare ' + run.name + ' ' + run.id + ' with the run in view' });
  mark.checked = run.id in over;
  mark.addEventListener('change', async () => { await lay(run.id, mark.checked); list(); await redraw(); compare(); });
  return make('label', {}, mark, 'compare');
}

function turns(run, place) {
  const one = (sign, what, act, off) => make('button', { type: 'button', class: 'act', disabled: off, 'data-key': act + ' ' + run.id,
    'aria-label': what + ': ' + run.name, title: what, 'data-run-act': JSON.stringify({ do: act, run: run.id }) }, sign);
  return make('span', { class: 'turns' }, one('↑', 'Earlier', 'up', place === 0),
    one('↓', 'Later', 'down', place === told.queue.length - 1), one('×', 'Take out of the queue', 'remove', false));
}

async function compareAll(ids) {
  over = {};
  if (!followed || !ids.includes(followed)) { follow(ids[0]); trigger('select', { run: ids[0] }); }
  for (const id of ids.slice(0, LAID_OVER.length + 1)) await lay(id, true);
  list(); await redraw(); compare();
}
