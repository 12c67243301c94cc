// The service of proto/stockservice.proto on @grpc/grpc-js, as its users would write it: unpaced, it
// writes until the stream says that it is full, and goes on when it has drained. Beside it is the part
// of grpc.health.v1 that is measured. All options are the defaults.
'use strict';

const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const { parseArgs } = require('node:util');

const START_PRICE = 150;

function text(date) {
  const minutes = -date.getTimezoneOffset();
  const local = new Date(date.getTime() + minutes * 60000).toISOString().slice(0, 19);
  const two = (n) => String(Math.floor(Math.abs(n))).padStart(2, '0');
  return `${local}${minutes < 0 ? '-' : '+'}${two(minutes / 60)}:${two(minutes % 60)}`;
}

// The random walk of one call.
class Walk {
  price = START_PRICE;
  second = 0;
  timestamp = '';

  // Formats the time once a second, because its text does not change in between.
  now() {
    const second = Math.floor(Date.now() / 1000);
    if (second !== this.second) {
      this.second = second;
      this.timestamp = text(new Date(second * 1000));
    }
    return this.timestamp;
  }

  step() {
    const before = this.price;
    let price = before + Math.random() * 5 - 2.5;
    if (price <= 0) price = before + (before - price);
    this.price = price;
    return {
      ticker: 'AAPL',
      price,
      change: price - before,
      changePercent: ((price - before) / before) * 100,
      volume: Math.floor(Math.random() * 10000),
      openPrice: START_PRICE,
      highPrice: price + Math.random() * 2,
      lowPrice: price - Math.random() * 2,
      marketCap: Math.floor(price * Math.floor(Math.random() * 1000000)),
      timestamp: this.now(),
    };
  }
}

function getUpdates(interval) {
  return (call) => {
    const walk = new Walk();
    let timer;
    call.on('cancelled', () => clearInterval(timer));
    call.on('error', () => clearInterval(timer));
    if (interval > 0) {
      let full = false; // while the client does not read, the walk pauses
      call.on('drain', () => (full = false));
      timer = setInterval(() => {
        if (!full) full = !call.write(walk.step());
      }, interval);
      return;
    }
    const pump = () => {
      while (!call.cancelled && call.write(walk.step()));
    };
    call.on('drain', pump);
    pump();
  };
}

const { values } = parseArgs({
  options: {
    port: { type: 'string', default: '0' },
    interval: { type: 'string', default: '0' }, // milliseconds; 0 is as fast as it goes
    proto: { type: 'string' },
    'health-proto': { type: 'string' },
  },
});
const { stockservice, grpc: standard } = grpc.loadPackageDefinition(
  loader.loadSync([values.proto, values['health-proto']], { keepCase: true, longs: Number }),
);
const server = new grpc.Server();
server.addService(stockservice.StockService.service, { GetUpdates: getUpdates(Number(values.interval)) });
server.addService(standard.health.v1.Health.service, {
  Check: (_call, callback) => callback(null, { status: 1 }), // SERVING
});
server.bindAsync(`127.0.0.1:${values.port}`, grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(`listening on 127.0.0.1:${port}`);
});
