// Beside each field: a way back if it was changed, the problem in words if it is wrong; on each
// closed group: how many of its fields differ. The server says which; this only writes it down.
function write() {
  let marks;
  try { marks = JSON.parse(props.value || '{}'); } catch (e) { return; }
  document.querySelectorAll('.field').forEach((field) => {
    const mark = marks[field.id] || {};
    if (mark.problem) field.dataset.problem = mark.problem; else delete field.dataset.problem;
    let back = field.querySelector(':scope > .way-back');
    if (!('changed' in mark)) { delete field.dataset.changed; if (back) back.remove(); return; }
    field.dataset.changed = '1';
    if (!back) {
      back = document.createElement('button');
      back.className = 'way-back';
      back.type = 'button';
      back.addEventListener('click', () => trigger('select', { field: field.id }));
      field.appendChild(back);
    }
    back.textContent = '↺ ' + (mark.changed === '' ? 'empty' : mark.changed.slice(0, 24));
    back.setAttribute('aria-label', 'Back to ' + (mark.changed || 'empty'));
  });
  document.querySelectorAll('.advanced').forEach((group) => {
    const ids = (groups[group.id] || []);
    const changed = ids.filter((id) => marks[id] && 'changed' in marks[id]).length;
    const wrong = ids.filter((id) => marks[id] && marks[id].problem).length;
    const label = group.querySelector('button span') || group.querySelector('button');
    if (!label) return;
    const words = (changed ? changed + ' changed' : '') + (wrong ? (changed ? ', ' : '') + wrong + ' to mend' : '');
    if (words) label.dataset.count = words; else delete label.dataset.count;
  });
}
const groups = JSON.parse(props.groups || '{}');
watch('value', write);
write();
// A tab's fields are made when it is first opened.
let waiting = null;
const seen = new MutationObserver((changes) => {
  if (changes.every((c) => [...c.addedNodes].every((n) => !n.querySelector || !n.querySelector('.field')))) return;
  clearTimeout(waiting);
  waiting = setTimeout(write, 60);
});
seen.observe(document.body, { childList: true, subtree: true });
