// A button that copies the text beside it. Where the browser gives no clipboard, as on a page from
// another machine without https, the text is selected instead.
async function copy(button) {
  const text = button.closest('details').querySelector('pre');
  try {
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = 'Copied';
  } catch (e) {
    getSelection().selectAllChildren(text);
    button.textContent = 'Selected: press Ctrl+C';
  }
}
// What a recipe of the list is compared with stands above the list: brings it into view.
function follow(button) {
  if (JSON.parse(button.dataset.recipe).do !== 'compare') return;
  document.querySelector('#recipes-compare').scrollIntoView({ behavior: 'smooth', block: 'start' });
}
function pressed(event) {
  if (!element.isConnected) { document.removeEventListener('click', pressed); return; }
  const button = event.target.closest && event.target.closest('button');
  if (button && 'copy' in button.dataset) copy(button);
  if (button && 'recipe' in button.dataset) follow(button);
}
document.addEventListener('click', pressed);
// What was opened stays open when the card is drawn anew.
const opened = new Set();
function toggled(event) {
  if (!element.isConnected) { document.removeEventListener('toggle', toggled, true); return; }
  const head = event.target.closest('#tune-summary details') && event.target.querySelector('summary');
  if (head) opened[event.target.open ? 'add' : 'delete'](head.textContent);
}
document.addEventListener('toggle', toggled, true);
const card = document.querySelector('#tune-summary');
if (card) {
  new MutationObserver(() => {
    for (const details of card.querySelectorAll('details:not([open])')) {
      if (opened.has(details.querySelector('summary').textContent)) details.open = true;
    }
  }).observe(card, { childList: true, subtree: true });
}
