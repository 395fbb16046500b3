// What people do with npm's heroku-client, against the node that HEROKU_HOST and HEROKU_API_KEY name. Prints a line a step.
const Heroku = require('heroku-client');

const heroku = new Heroku({ token: process.env.HEROKU_API_KEY, host: process.env.HEROKU_HOST });
const show = (...words) => console.log(...words.map((word) => (typeof word === 'string' ? word : JSON.stringify(word))));

async function refused(request) {
  try {
    await request;
    return 'not refused';
  } catch (error) {
    return `${error.statusCode} ${error.body.id}: ${error.body.message}`;
  }
}

async function main() {
  show('account', (await heroku.get('/account')).email);
  const app = await heroku.post('/apps', { body: { name: 'nodish', stack: 'heroku-24' } });
  show('created', app.name, 'on', app.stack.name);
  show('taken', await refused(heroku.post('/apps', { body: { name: 'nodish' } })));
  show('config', await heroku.patch('/apps/nodish/config-vars', { body: { COLOUR: 'green', SIZE: 'small' } }));
  show('config', await heroku.patch('/apps/nodish/config-vars', { body: { SIZE: null } }));
  const releases = await heroku.get('/apps/nodish/releases', { headers: { Range: 'version ..; max=2, order=desc' } });
  show('newest first', releases.map((release) => release.version));
  // The client follows Next-Range by itself and gives all of them.
  show('all by ones', (await heroku.get('/apps/nodish/releases', { headers: { Range: 'version ..; max=1' } })).length);
  await heroku.post('/apps/nodish/releases', { body: { release: releases[0].id } });
  show('maintenance', (await heroku.patch('/apps/nodish', { body: { maintenance: true } })).maintenance);
  show('formation', await heroku.get('/apps/nodish/formation'));
  show('feature', (await heroku.patch('/apps/nodish/features/http-session-affinity', { body: { enabled: true } })).enabled);
  const domain = await heroku.post('/apps/nodish/domains', { body: { hostname: 'www.nodish.example', sni_endpoint: null } });
  show('domain', domain.hostname, (await heroku.get('/apps/nodish/domains')).length);
  await heroku.delete('/apps/nodish/domains/www.nodish.example');
  show('missing', await refused(heroku.get('/apps/nosuch')));
  show('out of range', await refused(heroku.get('/apps', { headers: { Range: 'colour a..b' } })));
  show('renamed', (await heroku.patch('/apps/nodish', { body: { name: 'nodular' } })).name);
  show('destroyed', (await heroku.delete('/apps/nodular')).name);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
