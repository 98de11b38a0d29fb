// The answers that were tried, newest step first: what was asked, what was written, what it was worth.
async function tried() {
  const id = followed, got = await server.tried({ run: id });
  if (!got || id !== followed) return;
  $('tried-box').hidden = !got.steps.length;
  $('tried').replaceChildren(...got.steps.map((step) => make('section', {},
    make('h4', {}, 'Step ' + step.step),
    ...step.rows.map((row) => make('article', { class: 'tried' },
      make('p', { class: 'soft', dir: 'auto' }, row.prompt),
      make('p', { dir: 'auto' }, row.completion || '(nothing)'),
      make('p', { class: 'soft' }, Object.entries(row.rewards).map(([name, value]) => name.replace('_', ' ') + ' ' + short(value)).join(' · ') +
        ' · wanted: ' + row.answer))))));
}
$('tried-box').addEventListener('toggle', () => { if ($('tried-box').open) tried(); });
