// What starts all of it, and asks again while the page is looked at.
function follow(id) {
  if (!id || id === followed) return;
  element.dataset.points = 0;
  $('tried-box').hidden = true;
  followed = id; offset = 0; points = []; evals = []; state = {}; ready = false; about = null; delete over[id];
  $('chart').hidden = $('knobs').hidden = true; $('trace').textContent = ''; $('log').textContent = '';
  $('does').replaceChildren(); $('primary').replaceChildren(); $('labels').replaceChildren(); doesKey = '';
  if (window.Plotly) window.Plotly.purge($('chart'));
  head(); list(); tick(); compare();
}

async function tick() {
  if (!followed || busy) return;
  busy = true;
  const id = followed;
  try {
    const got = await ask('tick', { run: id, offset });
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
    if (fresh.some((p) => p['completions/mean_length'] != null)) $('tried-box').hidden = false;
    if ($('tried-box').open) await tried();
  } finally {
    busy = false;
    if (id !== followed) tick();
  }
}
async function log() {
  const id = followed, got = await server.log({ run: id });
  if (!got || id !== followed) return;
  const box = $('log'), low = box.scrollTop + box.clientHeight >= box.scrollHeight - 8;
  box.textContent = got.text || 'Nothing was written yet.';
  $('trace').textContent = got.traceback;
  problem(state);
  if (low) box.scrollTop = box.scrollHeight;
}
// Of the runs that are laid over, those that go on.
async function others() {
  let news = false;
  for (const other of Object.values(over)) {
    if (GOING.concat('queued').includes(other.status)) news = await freshen(other) || news;
  }
  if (news) { await redraw(); }
}

function valued() {
  let wanted = {};
  try { wanted = JSON.parse(props.value || '{}'); } catch (e) { return; }
  element.querySelectorAll('[aria-busy]').forEach(free);
  document.querySelectorAll('button[data-run-act][aria-busy]').forEach(free);
  if (wanted.download) make('a', { href: wanted.download, download: '' }).click();
  doesKey = ''; aboutKey = '';
  if (wanted.run) follow(wanted.run);
  head(); runList(Date.now()); tick();
}

// Knobs of the chart, which show when it does.
function knob(words, about, turned) {
  const box = make('input', about);
  box.addEventListener(about.type === 'range' ? 'input' : 'change', () => { turned(box); redraw(); });
  return make('label', {}, ...(about.type === 'range' ? [words + ' ', box] : [box, ' ' + words]));
}
$('knobs').prepend(
  knob('Smoothing', { type: 'range', min: 0, max: 0.98, step: 0.02, value: smoothing, 'data-part': 'smooth' }, (box) => { smoothing = +box.value; }),
  knob('Log scale', { type: 'checkbox', 'data-part': 'log-scale' }, (box) => { logScale = box.checked; }),
  knob('Clip outliers', { type: 'checkbox', 'data-part': 'clip' }, (box) => { clip = box.checked; }));
$('log-box').addEventListener('toggle', () => { if ($('log-box').open) log(); });
$('star').addEventListener('click', () => about && send({ do: 'describe', run: followed, star: !about.star }));
$('rename').addEventListener('click', rename);
let searching = null;
search.addEventListener('input', () => { clearTimeout(searching); searching = setTimeout(runList, 200); });
only.addEventListener('click', () => {
  starred = !starred;
  only.setAttribute('aria-pressed', String(starred)); only.textContent = starred ? '★' : '☆';
  runList();
});
document.addEventListener('click', pressed);
window.addEventListener('atelier-theme', () => setTimeout(redraw, 50));
watch('value', valued);
valued();
head();
let beats = 0;
atBeats(() => {
  if (!element.offsetParent) return;
  if (GOING.includes(state.status) || beats % 3 === 0) tick();
  if (beats % 3 === 0) { runList(); others(); }
  if (beats % 20 === 0 && compared) compare();
  beats += 1;
});
