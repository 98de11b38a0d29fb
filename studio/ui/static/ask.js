// A poll: what the page asks again and again. Nothing where the server does not answer.
async function ask(name, request) {
  try {
    const got = await fetch('poll/' + name + '?' + encodeURIComponent(JSON.stringify(request)));
    return got.ok ? await got.json() : undefined;
  } catch (e) { return undefined; }
}
