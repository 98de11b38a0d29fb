// The head of the run in view: its name, how it stands, and what can be done with it now. What can be
// done is told by the server; a button only sends the act, which the server judges.
let about = null, aboutKey = '', doesKey = '', sure = null;
const ACTS = {
  talk: ['Talk to it'], enqueue: ['Put it into the queue'], resume: ['Resume', 'Goes on from the newest checkpoint'],
  first: ['Train it next', 'To the head of the queue'], up: ['Earlier'], down: ['Later'], remove: ['Take out of the queue'],
  pause: ['Pause', 'Saves and gives the memory back, to go on later'], stop: ['Stop and keep', 'Finishes the step, saves, and ends'],
  kill: ['Stop now, save nothing'], save: ['Save now', 'A checkpoint after this step'], evaluate: ['Evaluate now', 'After this step'],
  discard: ['Stop and discard', 'Ends now and removes its checkpoints and adapter', 'Discard all of it? Press again'],
  final: ['Final run on all rows', 'The same settings, with nothing held back'],
  use: ['Use these settings', 'Copies them into the form'], pack: ['Take the run along', 'Settings, log, notes and adapter as one file'],
  clean: ['Remove its checkpoints', 'Frees the disk; it can’t go on from them then', 'Remove all of them? Press again'],
  delete: ['Delete', 'Can be undone for a week'],
};
const QUIET = ['talk', 'resume', 'enqueue', 'first', 'stop', 'pause', 'kill', 'up', 'down', 'remove', 'extend', 'final', 'use'];
const PRIMARY = ['talk', 'resume', 'enqueue', 'first'];

async function learn() {
  const id = followed, got = await ask('about', { run: id, anew: Date.now() });
  // Anew, for somebody may have changed it since the last answer. Not answered: asked again with the
  // next news.
  if (!got) aboutKey = '';
  if (!got || id !== followed) return;
  about = got.gone ? null : got;
  drawHead();
}

function send(act, from) {
  if (act.do === 'compare') { runList().then(() => compareAll(act.runs)); return; }
  if (from) { from.setAttribute('aria-busy', 'true'); from.disabled = true; setTimeout(() => free(from), 8000); }
  trigger('act', { act: JSON.stringify(act) });
}
function free(button) { if (button.isConnected) { button.removeAttribute('aria-busy'); button.disabled = false; } }

// Some acts are asked once more: the button says so, and a second press means it.
function pressed(event) {
  if (!element.isConnected) { document.removeEventListener('click', pressed); return; }
  const button = event.target.closest && event.target.closest('button[data-run-act]');
  if (sure && sure.button !== button) calm();
  if (!button || button.disabled) return;
  if (button.dataset.sure && !sure) {
    sure = { button, words: button.textContent, timer: setTimeout(calm, 12000) };
    button.textContent = button.dataset.sure; button.classList.add('sure');
    return;
  }
  if (sure) calm();
  send(JSON.parse(button.dataset.runAct), button);
}
function calm() {
  if (!sure) return;
  clearTimeout(sure.timer); sure.button.textContent = sure.words; sure.button.classList.remove('sure'); sure = null;
}
function button(name, more) {
  const [words, title, twice] = ACTS[name];
  return make('button', { type: 'button', class: 'act', title, id: more && more.id, 'data-sure': twice,
    'data-run-act': JSON.stringify({ do: name, run: followed, ...(name === 'clean' ? { all: true } : {}) }) }, words);
}
function asking(act, label, value, words, key, after) {
  const box = make('input', { type: 'text', inputmode: 'decimal', value, 'aria-label': label, 'data-part': 'ask-' + act.do });
  return make('form', { class: 'asking', onsubmit: (e) => { e.preventDefault(); send({ ...act, run: followed, value: box.value }, e.submitter); } },
    make('label', {}, label, box, after || ''), make('button', { type: 'submit', class: 'act', 'data-key': key }, words));
}
function branching() {
  const steps = make('select', { 'aria-label': 'Checkpoint to branch from', 'data-part': 'branch-step' },
    ...about.steps.slice().reverse().map((step) => make('option', { value: step }, 'step ' + step)));
  const form = make('input', { type: 'checkbox', 'data-part': 'branch-form' });
  return make('form', { class: 'asking', onsubmit: (e) => { e.preventDefault(); send({ do: 'branch', run: followed, step: +steps.value, form: form.checked }, e.submitter); } },
    make('label', {}, 'A new run from', steps), make('label', {}, form, 'with the settings of the form'),
    make('button', { type: 'submit', class: 'act' }, 'Branch'));
}
function control(name) {
  if (name === 'learning_rate') {
    const last = state.learning_rate;
    return asking({ do: 'learning_rate' }, 'Learning rate', last == null ? '' : Number(last).toExponential(2).replace('e+', 'e'), 'Change', 'rate');
  }
  if (name === 'extend') return asking({ do: 'extend' }, 'Train longer:', '1', 'Add', 'extend', ' more epochs');
  if (name === 'branch') return branching();
  return button(name);
}

function drawHead() {
  if (!about) return;
  const row = rowOf(followed) || {};
  $('title').textContent = about.title || row.name || followed;
  $('star').textContent = about.star ? '★' : '☆';
  $('star').setAttribute('aria-pressed', String(about.star));
  const key = JSON.stringify([about, followed]);
  if (key === doesKey) return;
  doesKey = key;
  const open = $('does').querySelector('details[open]') != null;
  // Where other settings would fit, to go on with the same ones is not the next thing.
  const main = PRIMARY.includes(about.can[0]) && !about.fits.length ? about.can[0] : null;
  $('primary').replaceChildren(...(main ? [button(main, { id: main === 'talk' ? 'talk' : null })] : []));
  if (main) $('primary').firstChild.classList.add('go');
  const rest = about.can.filter((name) => name !== main);
  const quiet = rest.filter((name) => QUIET.includes(name)), hidden = rest.filter((name) => !QUIET.includes(name));
  const order = (a, b) => QUIET.indexOf(a) - QUIET.indexOf(b);
  $('does').replaceChildren(...quiet.sort(order).map(control));
  if (hidden.length) {
    $('does').append(make('details', { class: 'more', open }, make('summary', {}, 'More'), make('div', {}, ...hidden.map(control))));
  }
  labels(); written(); settings(); head();
}

function labels() {
  const remove = (tag) => send({ do: 'describe', run: followed, tags: about.tags.filter((t) => t !== tag).join(',') });
  const chips = about.tags.map((tag) => make('span', { class: 'tag' },
    make('button', { type: 'button', title: 'Show runs with this tag', onclick: () => { search.value = tag; runList(); } }, tag),
    make('button', { type: 'button', 'aria-label': 'Remove the tag ' + tag, onclick: () => remove(tag) }, '×')));
  const box = make('input', { type: 'text', placeholder: '+ tag', 'aria-label': 'Add a tag', 'data-part': 'tag', maxlength: 30 });
  const add = make('form', { class: 'tag-form', onsubmit: (e) => { e.preventDefault();
    if (box.value.trim()) send({ do: 'describe', run: followed, tags: [...about.tags, box.value].join(',') }); } }, box);
  $('labels').replaceChildren(make('code', {}, followed), ...chips, add);
}

function rename() {
  const title = $('title'), box = make('input', { type: 'text', value: title.textContent, maxlength: 100, 'aria-label': 'Title of this run', 'data-part': 'new-title' });
  const id = followed, before = title.textContent;
  let over = false;
  const end = (keep) => {
    if (over) return;
    over = true;
    title.textContent = before; $('rename').focus();
    if (keep && box.value.trim() !== before) { title.textContent = box.value.trim() || before; send({ do: 'describe', run: id, title: box.value.trim() }); }
  };
  box.addEventListener('keydown', (e) => { if (e.key === 'Enter') end(true); if (e.key === 'Escape') end(false); });
  box.addEventListener('blur', () => end(true));
  title.replaceChildren(box); box.focus(); box.select();
}

function written() {
  const box = make('textarea', { rows: 4, maxlength: 20000, placeholder: 'What you tried, and what came of it', 'aria-label': 'Notes on this run', 'data-part': 'note', dir: 'auto' });
  const id = followed;
  const held = $('written').firstChild;
  // What is being typed is not taken away.
  if (held && held.dataset.run === id && document.activeElement === held) return;
  box.value = about.notes; box.dataset.run = id;
  box.addEventListener('change', () => send({ do: 'describe', run: id, notes: box.value }));
  $('written').replaceChildren(box, make('p', { class: 'soft' }, 'Kept when you leave the box. The search looks here too.'));
  $('written-box').firstElementChild.textContent = about.notes ? 'Notes: ' + about.notes.split('\n')[0].slice(0, 60) : 'Notes';
}

function settings() {
  const rows = about.settings.map(([label, value]) => make('tr', {}, make('td', {}, label), make('td', {}, value)));
  const words = about.unreadable || (rows.length ? 'What differs from the defaults:' : 'All at their defaults.');
  $('settings').replaceChildren(make('p', { class: about.unreadable ? 'bad' : 'soft' }, words), make('table', { class: 'plain' }, ...rows));
}

function problem(s) {
  const box = $('problem');
  box.hidden = !s.problem;
  $('trace-box').hidden = !s.problem || !$('trace').textContent;
  const key = JSON.stringify([s.problem, about && about.fits, followed, $('trace-box').hidden]);
  if (!s.problem || box.dataset.key === key) return;
  box.dataset.key = key;
  const show = (name) => () => { $(name).open = true; $(name).scrollIntoView({ behavior: 'smooth', block: 'nearest' }); $(name).firstElementChild.focus(); };
  const fits = (about && about.id === followed && about.fits) || [];
  box.replaceChildren(make('b', {}, s.problem.message), ' ' + s.problem.hint,
    s.problem.stage ? make('p', { class: 'soft' }, 'It happened while: ' + s.problem.stage + '.') : null);
  if (fits.length) {
    box.append(make('p', {}, 'These settings would fit: ' + fits.map(([label, was, now]) => label + ' ' + now + ' (was ' + was + ')').join(', ') + '.'));
  }
  box.append(make('div', { class: 'does' },
    fits.length ? make('button', { type: 'button', class: 'act go', 'data-part': 'use-fits', 'data-run-act': JSON.stringify({ do: 'use', run: followed, fit: true }) }, 'Use the settings that fit') : null,
    $('trace-box').hidden ? null : make('button', { type: 'button', class: 'act', onclick: show('trace-box') }, 'See the traceback'),
    make('button', { type: 'button', class: 'act', onclick: show('log-box') }, 'See the log')));
}

function head() {
  const s = state;
  element.dataset.status = s.status || '';
  element.dataset.run = followed || '';
  $('empty').hidden = !!followed; $('body').hidden = !followed;
  if (!followed) return;
  const row = rowOf(followed) || {};
  if (!$('title').querySelector('input')) $('title').textContent = (about && about.id === followed && about.title) || row.name || followed;
  const bad = ['failed', 'interrupted', 'unreadable'].includes(s.status);
  // Written only when it changes: a screen reader says what is written.
  if ($('status').textContent !== (s.words || '')) $('status').textContent = s.words || '';
  $('status').className = bad ? 'bad' : 'soft';
  const share = s.max_steps ? 100 * s.step / s.max_steps : s.total ? 100 * (s.done || 0) / s.total : 0;
  $('progress').style.width = Math.min(100, share) + '%';
  $('progress').parentElement.setAttribute('aria-valuenow', Math.round(share));
  const numbers = [
    [s.max_steps ? s.step + ' of ' + s.max_steps : '–', 'step'], [short(s.loss), 'loss'], [short(s.eval_loss), 'evaluation loss'],
    [s.tokens_per_second == null ? '–' : Math.round(s.tokens_per_second), 'tokens/s'],
    [s.elapsed == null ? '–' : clock(s.elapsed), 'elapsed'],
  ];
  if (GOING.includes(s.status)) numbers.push([s.remaining == null ? '–' : clock(s.remaining), 'remaining']);
  numbers.push(...(s.figures || []));
  // A run that has not begun has no numbers.
  $('numbers').hidden = $('progress').parentElement.hidden = !s.max_steps && s.elapsed == null;
  $('numbers').replaceChildren(...numbers.map(([value, label]) => make('div', {}, make('small', {}, label), String(value))));
  problem(s);
  const notes = $('notes');
  const said = [(about && about.id === followed && about.unreadable) || '', ...(s.notes || [])].filter(Boolean).join(' ');
  notes.hidden = !said;
  if (notes.textContent !== said) notes.textContent = said;
  // What can be done changes with how it stands, and with its place in the queue.
  const key = JSON.stringify([followed, s.status, s.paused, row.place, told.queue.length, s.max_steps, !!s.problem]);
  if (s.status && key !== aboutKey) {
    const news = aboutKey && JSON.parse(aboutKey)[0] === followed;
    aboutKey = key; learn();
    if (s.problem) log();
    // The list says it at once, too.
    if (news) { trigger('change', {}); runList(Date.now()); }
  }
}
