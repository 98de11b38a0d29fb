// The bar that stays. Asks the server every three seconds what this machine and its active run are
// doing. It only shows; the server's function only reads.
const line = element.querySelector('.bar');
const find = (name) => line.querySelector('[data-part="' + name + '"]');
const dark = () => document.documentElement.classList.contains('dark') || document.body.classList.contains('dark');

find('theme').addEventListener('click', () => {
  const on = !dark();
  document.body.classList.toggle('dark', on);
  try { localStorage.setItem('atelier-theme', on ? 'dark' : 'light'); } catch (e) { /* private window */ }
  find('theme').textContent = on ? 'Light' : 'Dark';
  window.dispatchEvent(new Event('atelier-theme'));
});
try {
  const kept = localStorage.getItem('atelier-theme');
  if (kept) document.body.classList.toggle('dark', kept === 'dark');
} catch (e) { /* private window */ }
find('theme').textContent = dark() ? 'Light' : 'Dark';
// Gradio counts how many tabs fit before its style sheets are all there; a resize makes it count again.
setTimeout(() => window.dispatchEvent(new Event("resize")), 400);
find('run').addEventListener('click', () => trigger('select', { run: find('run').dataset.run }));

function spark(losses) {
  if (losses.length < 2) return '';
  const low = Math.min(...losses), span = Math.max(...losses) - low || 1;
  const points = losses.map((v, i) => (60 * i / (losses.length - 1)).toFixed(1) + ',' + (15 - 14 * (v - low) / span).toFixed(1));
  return '<svg width="60" height="16" aria-hidden="true"><polyline points="' + points.join(' ') +
    '" fill="none" stroke="var(--tuned)" stroke-width="1.5"/></svg>';
}

let last = null;
async function beat() {
  if (document.hidden) return;
  const pulse = await ask('pulse', {});
  if (!pulse) { find('machine').textContent = 'The server does not answer; it may be restarting.'; return; }
  find('machine').textContent = pulse.machine;
  const warning = element.querySelector('[data-part="warning"]');
  warning.hidden = !pulse.warning; warning.textContent = pulse.warning || '';
  const run = pulse.run, button = find('run');
  button.hidden = !run;
  if (run) {
    button.dataset.run = run.id;
    const share = run.max_steps ? Math.round(100 * run.step / run.max_steps) : 0;
    button.innerHTML = '<span></span><span class="meter"><i style="width:' + share + '%"></i></span>' + spark(run.losses);
    button.firstChild.textContent = run.max_steps ? 'step ' + run.step + ' of ' + run.max_steps : run.stage;
    button.setAttribute('aria-label', 'Show the active run ' + run.id);
  }
  const state = JSON.stringify([run && run.id, pulse.latest]);
  if (last !== null && state !== last) trigger('change', {});
  last = state;
}
beat();
let beats = 0;
atBeats(() => { if (beats++ % 2) beat(); });
