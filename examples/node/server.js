'use strict';

const express = require('express');

const app = express();
const started = new Date();
let visits = 0;

app.disable('x-powered-by');
// The router is the one hop in front of a dyno.
app.set('trust proxy', 1);
app.use(express.static('public'));

app.get('/visits', (request, response) => {
  visits += 1;
  console.log(`visit ${visits} from ${request.ip}`);
  response.json({
    greeting: process.env.GREETING ?? 'Hello',
    visits,
    dyno: process.env.DYNO ?? null,
    release: process.env.HEROKU_RELEASE_VERSION ?? null,
    node: process.version,
    environment: process.env.NODE_ENV,
    concurrency: process.env.WEB_CONCURRENCY,
    started,
  });
});

const server = app.listen(process.env.PORT ?? 3000, () => {
  console.log(`listening on ${server.address().port}`);
});

// A dyno is told to stop by SIGTERM; what is under way is answered first.
process.on('SIGTERM', () => server.close(() => process.exit(0)));
