// Buttons inside what the server has drawn. Each carries what it does as JSON in data-act; the
// server is told, and judges it like anything that is typed.
function pressed(event) {
  if (!element.isConnected) { document.removeEventListener('click', pressed); return; }
  const name = props.attribute || 'act';
  const button = event.target.closest && event.target.closest('button[data-' + name + ']');
  if (button && !button.disabled) trigger('select', { act: button.dataset[name] });
}
document.addEventListener('click', pressed);
