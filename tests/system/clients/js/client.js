// stockd seen by @grpc/grpc-js. Run as: client.js PROTO PORT SCENARIO [ARGUMENT...]; prints one
// line of JSON. The scenarios are described in tests/system/harness/clients.py.
'use strict';

const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [proto, port, scenario, ...rest] = process.argv.slice(2);
const numbers = rest.map(Number);
const definition = loader.loadSync(proto, { keepCase: true, longs: BigInt, defaults: true });
const { StockService } = grpc.loadPackageDefinition(definition).stockservice;
const target = `127.0.0.1:${port}`;

function connect() {
  return new StockService(target, grpc.credentials.createInsecure(), {
    'grpc.use_local_subchannel_pool': 1,
    'grpc.enable_http_proxy': 0,
  });
}

const TIMESTAMP = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d([+-]\d\d:\d\d|Z)$/;

// The first fault of an update that comes after the price `before`, or null.
function faultOf(update, before, start) {
  const u = update;
  const relative = (u.change / before) * 100;
  const shares = BigInt(Math.max(0, Math.round(Number(u.marketCap) / u.price) - 1));
  const caps = [0n, 1n, 2n, 3n].map((n) => BigInt(Math.trunc(u.price * Number(shares + n))));
  const checks = {
    ticker: u.ticker === 'AAPL',
    price: u.price === before + u.change && u.price > 0,
    change: u.change >= -2.5 && u.change <= 2.5,
    changePercent: Math.abs(u.changePercent - relative) <= 1e-9 * (1 + Math.abs(relative)),
    volume: u.volume >= 0n && u.volume < 10000n,
    openPrice: u.openPrice === start,
    highPrice: u.highPrice >= u.price && u.highPrice <= u.price + 2,
    lowPrice: u.lowPrice <= u.price && u.lowPrice >= u.price - 2,
    marketCap: caps.includes(u.marketCap),
    timestamp: TIMESTAMP.test(u.timestamp),
  };
  const wrong = Object.keys(checks).filter((name) => !checks[name]);
  return wrong.length ? `${wrong} of ${require('util').inspect(u)} after ${before}` : null;
}

// Follows one call. `done(count)` says after each update whether it is enough.
function follow(client, deadlineMs, enough) {
  return new Promise((resolve) => {
    const result = { received: 0, code: null, details: '', fault: null };
    const options = deadlineMs ? { deadline: Date.now() + deadlineMs } : {};
    const call = client.GetUpdates({}, options);
    let before = 150;
    call.on('data', (update) => {
      if (enough.over) return;
      result.fault = result.fault || faultOf(update, before, 150);
      before = update.price;
      result.received += 1;
      if (enough(result)) call.cancel();
    });
    call.on('error', () => {});
    call.on('status', (status) => {
      result.code = status.code;
      result.details = status.details;
      resolve(result);
    });
    enough.calls = (enough.calls || []).concat(call);
  });
}

const scenarios = {
  async updates(count, streams) {
    const client = connect();
    const follows = [];
    for (let i = 0; i < streams; i++) follows.push(follow(client, 0, (r) => r.received >= count));
    return { streams: await Promise.all(follows) };
  },

  async deadline(milliseconds) {
    const result = await follow(connect(), milliseconds, () => false);
    return { streams: [result] };
  },

  async unknown() {
    const client = connect();
    const one = (path) =>
      new Promise((resolve) => {
        const same = (x) => x;
        const call = client.makeServerStreamRequest(path, same, same, Buffer.alloc(0));
        call.on('data', () => {});
        call.on('error', () => {});
        call.on('status', (s) => resolve({ received: 0, code: s.code, details: s.details }));
      });
    return {
      streams: [await one('/stockservice.StockService/Nothing'), await one('/no.Service/Method')],
    };
  },

  // Until all streams together have received `total`, counted from when each had its first.
  async fair(total, streams) {
    const client = connect();
    const begun = new Set();
    const counts = new Map();
    let sum = 0;
    const enough = (result) => {
      begun.add(result);
      if (begun.size < streams) return false;
      counts.set(result, (counts.get(result) || 0) + 1);
      sum += 1;
      if (sum < total) return false;
      enough.over = true;
      enough.calls.forEach((call) => call.cancel());
      return true;
    };
    const follows = [];
    for (let i = 0; i < streams; i++) follows.push(follow(client, 0, enough));
    const results = await Promise.all(follows);
    results.forEach((result) => { result.received = counts.get(result) || 0; });
    return { streams: results };
  },

  // Reads on until the server ends the calls; says on a line of its own when all have begun.
  async end(streams) {
    const client = connect();
    let begun = 0;
    const enough = (result) => {
      if (result.received === 1 && ++begun === streams) console.log('begun');
      return false;
    };
    const follows = [];
    for (let i = 0; i < streams; i++) follows.push(follow(client, 0, enough));
    return { streams: await Promise.all(follows) };
  },
};

scenarios[scenario](...numbers).then((result) => {
  console.log(JSON.stringify(result));
  process.exit(0);
});
