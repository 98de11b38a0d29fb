// Buttons inside what the server has drawn. Each carries what it does as JSON in data-act; the
// server is told, and judges it like anything that is typed.
function pressed(event) {
  if (!element.isConnected) { document.removeEventListener('click', pressed); return; }
  const name = props.attribute || 'act';
  const button = event.target.closest && event.target.closest('button[data-' + name + ']');
  if (!button || button.disabled) return;
  trigger('select', { act: button.dataset[name] });
  // What is to be looked at may lie far below on a narrow page.
  if (button.dataset[name].includes('"do": "row"')) show();
}
function show() {
  const row = document.getElementById('row-seen');
  const place = row && row.getBoundingClientRect();
  if (place && (place.top < 0 || place.top > innerHeight * 0.7)) {
    row.scrollIntoView({ block: 'start', behavior: 'smooth' });
  }
}
document.addEventListener('click', pressed);
