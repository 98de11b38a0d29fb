// Polls: what the page asks again and again. What is asked in the same moment goes as one. Nothing
// where the server does not answer.
function ask(name, request) {
  return new Promise((done) => {
    const asked = window.atelierAsked ||= [];
    if (asked.push({ what: [name, request], done }) === 1) setTimeout(askNow, 20);
  });
}
async function askNow() {
  const asked = window.atelierAsked.splice(0);
  let answers = [];
  try {
    const got = await fetch('poll?' + encodeURIComponent(JSON.stringify(asked.map((a) => a.what))));
    window.atelierCrowd = Number(got.headers.get('X-Crowd')) || 1;
    if (got.ok) answers = await got.json();
  } catch (e) { /* it may be restarting */ }
  asked.forEach((a, i) => a.done(answers[i] || undefined));
}
// All that asks does so at the page's one beat, while the page is looked at. Where many look, each
// asks less often. On a laptop the page and the run share the cores: no beat is shorter than a step
// takes there.
function atBeats(each) {
  window.atelierBeats ||= setInterval(() => {
    const crowded = Math.random() * (window.atelierCrowd || 1) > 1;
    if (!document.hidden && !crowded) window.dispatchEvent(new Event('atelier-beat'));
  }, 1500);
  function heard() {
    if (element.isConnected) each(); else window.removeEventListener('atelier-beat', heard);
  }
  window.addEventListener('atelier-beat', heard);
}
