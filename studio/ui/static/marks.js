// Beside each field: a way back if it was changed, the problem in words if it is wrong; on each
// closed group: how many of its fields differ. The server says which; this only writes it down.
const links = JSON.parse(props.links || '{}');
const groups = JSON.parse(props.groups || '{}');
const refused = JSON.parse(props.refused || '{}');
// What is wrong may come with a button that mends it.
function mend(field, mark) {
  let button = field.querySelector(':scope > .mend');
  if (!mark.mend) { if (button) button.remove(); return; }
  if (!button) {
    button = document.createElement('button');
    button.type = 'button'; button.className = 'act mend';
    field.appendChild(button);
  }
  if (button.textContent !== mark.does) button.textContent = mark.does;
  button.dataset.mend = mark.mend;
}
// What can't be chosen here looks like it; its label says why.
function refuse(field) {
  const why = refused[field.id];
  if (!why) return;
  field.querySelectorAll('input[type="checkbox"], input[type="radio"]').forEach((input) => {
    const reason = why[input.value] || why[input.name];
    if (reason && !input.checked && !input.disabled) {
      input.disabled = true;
      input.closest('label').classList.add('refused');
    }
  });
}
function pressed(event) {
  if (!element.isConnected) { document.removeEventListener('click', pressed); return; }
  const button = event.target.closest && event.target.closest('button[data-mend]');
  if (button) trigger('select', { mend: button.dataset.mend });
}
document.addEventListener('click', pressed);
function write() {
  let marks;
  try { marks = JSON.parse(props.value || '{}'); } catch (e) { return; }
  document.querySelectorAll('.field').forEach((field) => {
    const mark = marks[field.id] || {};
    if (field.dataset.problem !== mark.problem) {
      if (mark.problem) field.dataset.problem = mark.problem; else delete field.dataset.problem;
    }
    mend(field, mark);
    refuse(field);
    const unused = Boolean(mark.unused);
    if (field.classList.contains('unused') !== unused) field.classList.toggle('unused', unused);
    const help = field.querySelector('.info-text, [data-testid="block-info"] + div');
    if (help && links[field.id] && !help.querySelector('.more')) {
      const more = document.createElement('a');
      Object.assign(more, { className: 'more', href: links[field.id], target: '_blank', rel: 'noreferrer', textContent: 'more' });
      help.append(' ', more);
    }
    let back = field.querySelector(':scope > .way-back');
    if (!('changed' in mark)) { delete field.dataset.changed; if (back) back.remove(); return; }
    if (!field.dataset.changed) field.dataset.changed = '1';
    if (!back) {
      back = document.createElement('button');
      back.className = 'way-back';
      back.type = 'button';
      back.addEventListener('click', () => trigger('select', { field: field.id }));
      field.appendChild(back);
    }
    const words = '↺ ' + (mark.changed === '' ? 'empty' : mark.changed.slice(0, 24));
    if (back.textContent !== words) back.textContent = words;
    back.setAttribute('aria-label', 'Back to ' + (mark.changed || 'empty'));
  });
  document.querySelectorAll('.advanced').forEach((group) => {
    const ids = (groups[group.id] || []);
    const unused = ids.length > 0 && ids.every((id) => marks[id] && marks[id].unused);
    if (group.classList.contains('unused') !== unused) group.classList.toggle('unused', unused);
    const changed = ids.filter((id) => marks[id] && 'changed' in marks[id] && !marks[id].unused).length;
    const wrong = ids.filter((id) => marks[id] && marks[id].problem).length;
    const label = group.querySelector('button span') || group.querySelector('button');
    if (!label) return;
    const words = (changed ? changed + ' changed' : '') + (wrong ? (changed ? ', ' : '') + wrong + ' to mend' : '');
    if (label.dataset.count !== (words || undefined)) {
      if (words) label.dataset.count = words; else delete label.dataset.count;
    }
  });
}


watch('value', write);
write();
// A tab's fields are made when it is first opened, in several strokes, and Gradio may make them anew.
const timer = setInterval(() => {
  if (!element.isConnected) clearInterval(timer);
  else if (!document.hidden) write();
}, 500);
