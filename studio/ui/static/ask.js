// A poll: what the page asks again and again. Nothing where the server does not answer.
async function ask(name, request) {
  try {
    const got = await fetch('poll/' + name + '?' + encodeURIComponent(JSON.stringify(request)));
    window.atelierCrowd = Number(got.headers.get('X-Crowd')) || 1;
    return got.ok ? await got.json() : undefined;
  } catch (e) { return undefined; }
}
// Whether it is another page's turn: where many look, each asks less often.
function crowded() { return Math.random() * (window.atelierCrowd || 1) > 1; }
