// The dashboard: what stockd sends, what its clients process, and what lies between the two.
//
// CMake turns this into stockd.json, which Grafana reads, from version 9 on. Here a panel is only
// what it asks and why; what panels have in common is written once. Panels flow: each takes its
// place behind the one before it, and a heading begins a new line.

local green = '#009E73',
      yellow = '#F0E442',
      dark_yellow = '#E0B400',
      red = '#D55E00',
      blue = '#0072B2',
      sky = '#56B4E9',
      orange = '#E69F00',
      purple = '#CC79A7',
      grey = '#999999';

// What has a colour has it everywhere. The shades are told apart by people who don't see all
// colours.
local colours = {
  sent: green,
  'stock updates sent by server': green,
  sending: green,
  ok: green,
  OK: green,
  processed: yellow,
  'stock updates processed by client': yellow,
  blocked: red,
  limit: red,
  stream_window: red,
  connection_window: purple,
  socket: blue,
  stream: red,
  connection: purple,
  request: sky,
  call: orange,
  p50: sky,
  p99: orange,
  'p99.9': red,
  'highest bucket': purple,
  'on the way': blue,
  unprocessed: sky,
  stalled: red,
  received: sky,
  accepted: sky,
  closed: grey,
  open: blue,
  handshakes: orange,
  all: grey,
  taken: green,
  delivered: blue,
  merged: sky,
  dropped: orange,
  block: blue,
  conflate: sky,
  drop_oldest: orange,
  disconnect: purple,
  complete: green,
  history: red,
  epoch: orange,
  ahead: purple,
  kept: sky,
  heartbeats: sky,
  gaps: red,
  faults: red,
};

local source = { type: 'prometheus', uid: '${datasource}' };

// Selectors. Families of one side have their own names, but those of processes are the same at both
// sides, and others have them, too: of these only the series of who tells that side's version
// count.
local at_server = '{job=~"$job", instance=~"$instance"}',
      at_client = '{job=~"$client_job", instance=~"$client_instance"}';
local matching(scope, more) = std.strReplace(scope, '}', ', %s}' % more);
local server(name, more='') = name + if more == '' then at_server else matching(at_server, more);
local client(name, more='') = name + if more == '' then at_client else matching(at_client, more);
local rate(series) = 'rate(%s[$__rate_interval])' % series;
local total(expression) = 'sum(%s)' % expression;
local by(labels, expression) = 'sum by (%s) (%s)' % [labels, expression];
local of(process, expression) = '%s and on (job, instance) %s' % [expression, process];
local of_stockd(expression) = of(server('stockd_build_info'), expression);
local of_client(expression) = of(client('stock_client_build_info'), expression);
local quantile(q, histogram) =
  'histogram_quantile(%s, %s)' % [q, by('le', rate(server(histogram + '_bucket')))];

local query(expr, legend) = {
  datasource: source,
  editorMode: 'code',
  expr: expr,
  instant: false,
  legendFormat: legend,
  range: true,
};
// Only what is so now: over time the last value would stand there also when it is long past.
local now(expr, legend) = query(expr, legend) { instant: true, range: false };

local quantiles(histogram) = [
  query(quantile('0.5', histogram), 'p50'),
  query(quantile('0.99', histogram), 'p99'),
  query(quantile('0.999', histogram), 'p99.9'),
  query(quantile('1', histogram), 'highest bucket'),
];

// Panels. Their width and height are in units of Grafana's grid, which has 24 columns.
local panel(title, description, width, height) = {
  title: title,
  // Where a line ends is this file's business; paragraphs stay.
  description: std.join('\n\n', [
    std.strReplace(paragraph, '\n', ' ')
    for paragraph in std.split(std.strReplace(std.rstripChars(description, '\n'), '\n\n', '\t'), '\t')
  ]),
  datasource: source,
  gridPos: { w: width, h: height },
};

local with_targets(queries) = {
  targets: std.mapWithIndex(function(i, one) one { refId: std.char(std.codepoint('A') + i) }, queries),
};

local coloured(name, properties=[]) = {
  matcher: { id: 'byName', options: name },
  properties: [
    { id: 'color', value: { mode: 'fixed', fixedColor: colours[name] } },
  ] + properties,
};

// Where an instance is in the name, by how it begins.
local beginning(name, colour) = {
  matcher: { id: 'byRegexp', options: '/^%s/' % name },
  properties: [{ id: 'color', value: { mode: 'fixed', fixedColor: colour } }],
};

// The names of series that a legend stands for, in so far as they have a colour.
local labels = {
  '{{grpc_code}}': ['OK'],
  '{{outcome}}': ['ahead', 'complete', 'epoch', 'history', 'ok'],
  '{{place}}': ['call', 'request', 'socket'],
  '{{policy}}': ['block', 'conflate', 'disconnect', 'drop_oldest'],
  '{{reason}}': ['connection_window', 'history', 'socket', 'stream_window'],
  '{{scope}}': ['connection', 'stream'],
  '{{state}}': ['blocked', 'sending'],
};
local names(queries) = std.filter(
  function(name) std.objectHas(colours, name),
  std.flattenArrays([
    if std.objectHas(labels, one.legendFormat) then labels[one.legendFormat] else [one.legendFormat]
    for one in queries
  ])
);

local shown_as(name, style) = coloured(
  name, [{ id: 'custom.' + option, value: style[option] } for option in std.objectFields(style)]
);

local graph(
  title, description, queries, unit, width=8, height=8, stacked=false, fill=10, style={}, overrides=[], extra={}
      ) =
  panel(title, description, width, height) + with_targets(queries) + {
    type: 'timeseries',
    fieldConfig: {
      defaults: {
        color: { mode: 'palette-classic' },
        custom: {
          axisLabel: '',
          axisPlacement: 'auto',
          // Where nothing happens Grafana would let the axis reach to 100.
          [if unit == 'short' then 'axisSoftMax']: 1,
          axisSoftMin: 0,
          barAlignment: 0,
          drawStyle: 'line',
          fillOpacity: if stacked then 40 else fill,
          gradientMode: 'none',
          lineInterpolation: 'linear',
          lineWidth: if stacked then 1 else 2,
          pointSize: 3,
          scaleDistribution: { type: 'linear' },
          showPoints: 'auto',
          spanNulls: false,
          stacking: { group: 'A', mode: if stacked then 'normal' else 'none' },
        } + style,
        unit: unit,
      } + extra,
      overrides:
        if std.length(overrides) > 0 then overrides
        else [coloured(name) for name in names(queries)],
    },
    options: {
      legend: {
        calcs: if width > 8 then ['lastNotNull', 'max'] else ['lastNotNull'],
        displayMode: 'list',
        placement: 'bottom',
        showLegend: true,
      },
      tooltip: { mode: 'multi', sort: 'desc' },
    },
  };

// For series that come and go: their last value may be long past, their highest is what they were.
local passing = { options+: { legend+: { calcs: ['max'] } } };

// For what is rare: a few a minute are easier to read than a few hundredths a second.
local per_minute(expression) = '60 * ' + expression;
local minutely(title, description, queries) =
  graph(
    title,
    description + |||

      One alone shows as several a minute, for as long as the time that rates are taken over.
    |||,
    queries,
    'short'
  );

local step(colour, value=null) = { color: colour, value: value };

local tile(title, description, expr, unit, steps, decimals=null) =
  panel(title, description, 4, 4) + with_targets([now(expr, title)]) + {
    type: 'stat',
    fieldConfig: {
      defaults: {
        color: { mode: 'thresholds' },
        [if decimals != null then 'decimals']: decimals,
        noValue: '–',
        thresholds: { mode: 'absolute', steps: steps },
        unit: unit,
      },
      overrides: [],
    },
    options: {
      colorMode: 'value',
      graphMode: 'none',
      justifyMode: 'auto',
      orientation: 'auto',
      percentChangeColorMode: 'standard',
      reduceOptions: { calcs: ['lastNotNull'], fields: '', values: false },
      showPercentChange: false,
      text: { valueSize: 30 },
      textMode: 'value',
      wideLayout: true,
    },
  };

// How often each bucket of a histogram was met, as colour over time. A column is as wide as what it
// counts, so that nothing is counted twice.
local heat(title, description, histogram, width=12) =
  panel(title, description, width, 10)
  + with_targets([
    query(by('le', 'increase(%s[$__rate_interval])' % server(histogram + '_bucket')), '{{le}}')
    + { format: 'heatmap', interval: '$__rate_interval' },
  ])
  + {
    type: 'heatmap',
    fieldConfig: {
      defaults: {
        custom: {
          hideFrom: { legend: false, tooltip: false, viz: false },
          scaleDistribution: { type: 'linear' },
        },
        unit: 's',
      },
      overrides: [],
    },
    options: {
      calculate: false,
      cellGap: 1,
      cellValues: { unit: 'short' },
      color: {
        exponent: 0.5,
        fill: orange,
        mode: 'scheme',
        reverse: true,
        scale: 'exponential',
        scheme: 'Viridis',
        steps: 64,
      },
      exemplars: { color: 'rgba(255,0,255,0.7)' },
      filterValues: { le: 1e-9 },
      legend: { show: true },
      rowsFrame: { layout: 'auto' },
      showValue: 'never',
      tooltip: { mode: 'single', yHistogram: false },
      yAxis: { axisPlacement: 'left', reverse: false, unit: 's' },
    },
  };

// What is in one of a few states, as bands over time. `states` are their names and colours, from 1;
// 0 is none of them.
local timeline(title, description, expr, legend, states) =
  panel(title, description, 24, 4) + with_targets([query(expr, legend)]) + {
    type: 'state-timeline',
    fieldConfig: {
      defaults: {
        // By thresholds Grafana would make one band of all that lies between two of them.
        color: { mode: 'palette-classic' },
        custom: { fillOpacity: 80, lineWidth: 0, spanNulls: false },
        mappings: [{
          type: 'value',
          options: {
            [std.toString(number)]: {
              color: states[number - 1].colour,
              index: number,
              text: states[number - 1].name,
            }
            for number in std.range(1, std.length(states))
          } + { '0': { color: grey, index: 0, text: 'none' } },
        }],
        unit: 'none',
      },
      overrides: [],
    },
    options: {
      alignValue: 'left',
      legend: { calcs: [], displayMode: 'list', placement: 'bottom', showLegend: false },
      mergeValues: true,
      rowHeight: 0.8,
      showValue: 'auto',
      tooltip: { mode: 'single', sort: 'none' },
    },
  };

local whole = { decimals: 0 };
local logarithmic = { scaleDistribution: { type: 'log', log: 10 }, axisSoftMax:: 0, axisSoftMin:: 0 };

local heading(title) =
  { type: 'row', title: title, collapsed: false, panels: [], gridPos: { w: 24, h: 1 } };

// --- what is shown -------------------------------------------------------------------------------

local sent = total(server('stock_updates_sent_total')),
      processed = total(client('stock_updates_received_total')),
      sent_rate = total(rate(server('stock_updates_sent_total'))),
      processed_rate = total(rate(client('stock_updates_received_total')));

// The two counters can be compared while the calls that the servers have had are those that the
// clients have begun. After a restart of one end alone, or with clients that nobody scrapes, they
// are not.
local streams_of(side, metric) = total(side(metric, 'grpc_method="GetUpdates"'));
local on_the_way = '%s - %s unless %s != %s' % [
  sent,
  processed,
  streams_of(server, 'grpc_server_started_total'),
  streams_of(client, 'grpc_client_started_total'),
];
local first = graph(
  'Stock updates sent x Stock updates processed',
  |||
    Backpressure at a glance: the counters of both ends since they were started, all servers and all
    clients together.

    With a fast client the yellow line lies on the green bars. With a slow one the bars run ahead
    until what lies between is full, and then rise only as fast as the client processes: stockd
    waits for it instead of piling up.
  |||,
  [
    query(sent, 'stock updates sent by server'),
    query(processed, 'stock updates processed by client'),
  ],
  'short',
  extra={ noValue: 'Prometheus scrapes no stockd' },
  width=16,
  height=12,
  overrides=[
    shown_as('stock updates sent by server', { drawStyle: 'bars', fillOpacity: 60, lineWidth: 1 }),
    shown_as('stock updates processed by client', { drawStyle: 'line', fillOpacity: 0, lineWidth: 3 }),
  ],
);

// Two columns of tiles beside the first panel.
local tiles = [
  tile(
    'Sent/s',
    |||
      Updates whose last byte the kernel has accepted, of all servers.
    |||,
    sent_rate,
    'short',
    [step(green)],
  ),
  tile(
    'Processed/s',
    |||
      Updates that the clients have processed.
    |||,
    processed_rate,
    'short',
    [step(dark_yellow)],
  ),
  tile(
    'On the way',
    |||
      Updates that were sent and are not processed yet: in the buffers of both kernels, on the
      network, in the windows of clients. When it is not known, the panel of the gap says why.
    |||,
    on_the_way,
    'short',
    [step(blue)],
    decimals=0,
  ),
  tile(
    'Blocked',
    |||
      Share of the open streams that have something to send and cannot. Some of it is what
      backpressure is for; all of it for long is a client that does not read.
    |||,
    '%s / clamp_min(%s, 1)' % [
      total(server('stockd_blocked_streams')),
      total(server('stockd_streams')),
    ],
    'percentunit',
    [step(green), step(orange, 0.25), step(red, 0.75)],
    decimals=0,
  ),
  tile(
    'Send lag, p99',
    |||
      From when an update was due until the kernel accepted its last byte, time blocked included:
      99 of 100 updates took no longer.
    |||,
    quantile('0.99', 'stockd_send_lag_seconds'),
    's',
    [step(green), step(orange, 1), step(red, 10)],
  ),
  tile(
    'Alerts',
    |||
      Alerts of stockd's rules that are firing; stockd-alerts(7) says what to do about each.
      None at all where the rules are not loaded.
    |||,
    'count(ALERTS{alertname=~"Stockd.*", alertstate="firing"}) or 0 * count(instance:stock_updates_sent:rate1m)',
    'none',
    [step(green), step(red, 1)],
    decimals=0,
  ),
];

local flow = [
  heading('Flow'),
  graph(
    'Sent and processed per second',
    |||
      How fast each end is. What stockd sends beyond what clients process goes into buffers; when
      they are full the two rates are the same, and that is backpressure.
    |||,
    [query(sent_rate, 'sent'), query(processed_rate, 'processed')],
    'short',
  ),
  graph(
    'Gap between sent and processed',
    |||
      Updates that are on the way: sent, and not processed yet. With a slow client they become
      more until what lies between is full, never more and more without end. Then there are about
      as many all the time if the client gives credit for each update, as stock-client with a
      delay does; if it gives credit for half its window at a time, their number goes up and down
      by as much. The two ends are not scraped at one moment, so at high rates it sways.

      Shown only while the streams that the servers have had are those that the clients have begun:
      not once a client is gone or one end alone was restarted, nor with clients that nobody
      scrapes. So start stockd anew between a fast and a slow run.
    |||,
    [query(on_the_way, 'on the way')],
    'short',
    fill=25,
    extra={ noValue: 'not known: see the description' },
  ),
  graph(
    'Unprocessed at the client',
    |||
      Bytes that have come and for which the client has not given credit back. The client's window
      is the most there can be. The rest of the gap is in kernels and on the network.
    |||,
    [query(total(client('stock_client_unprocessed_bytes')), 'unprocessed')],
    'bytes',
    fill=25,
  ),
];

local reason(metric) = query(by('reason', rate(server(metric))), '{{reason}}');
// Of the whole time that is shown.
local all_in_range(metric) = by('reason', 'increase(%s[$__range])' % server(metric));

local backpressure = [
  heading('Backpressure'),
  graph(
    'Streams by state',
    |||
      Open streams: blocked if there is something to send that cannot go, else sending, also while
      they wait for their next update.
    |||,
    [query(by('state', server('stockd_streams')), '{{state}}')],
    'short',
    stacked=true,
    extra=whole,
  ),
  graph(
    'Blocked streams by reason',
    |||
      What holds streams back at the moment of the scrape. stream_window: the client's program has
      given no credit for this stream. connection_window: its streams together have used the
      connection's credit. socket: the kernel takes no more, so the network or the whole client is
      slow.
    |||,
    [query(by('reason', server('stockd_blocked_streams')), '{{reason}}')],
    'short',
    stacked=true,
    extra=whole,
  ),
  graph(
    'Streams blocked on average',
    |||
      Seconds that streams spent blocked, per second: how many were blocked on average since the
      last point, short waits between two scrapes included.
    |||,
    [reason('stockd_blocked_seconds_total')],
    'short',
    stacked=true,
  ),
  graph(
    'Share of time blocked',
    |||
      Of the time that all open streams had, what they spent blocked.
    |||,
    [
      query(
        '%s / clamp_min(sum(avg_over_time(%s[$__rate_interval])), 1)' % [
          total(rate(server('stockd_blocked_seconds_total'))),
          server('stockd_streams'),
        ],
        'blocked',
      ),
    ],
    'percentunit',
    fill=25,
    extra={ max: 1 },
  ),
  minutely(
    'Episodes per minute',
    |||
      How often streams become blocked, or blocked for another reason than before. Many short
      episodes are the normal rhythm of a client that is a little slower than its stream.
    |||,
    [query(per_minute(by('reason', rate(server('stockd_blocked_episodes_total')))), '{{reason}}')],
  ),
  graph(
    'Mean episode',
    |||
      How long streams stay blocked at a time: at each point the mean over as much time as is
      shown, and what was blocked for longer than that counts as long as that. It grows when a
      client stops to read altogether.
    |||,
    [
      query(
        '%s / clamp_min(%s > %s or %s, 1)' % [
          all_in_range('stockd_blocked_seconds_total'),
          all_in_range('stockd_blocked_episodes_total'),
          by('reason', server('stockd_blocked_streams')),
          by('reason', server('stockd_blocked_streams')),
        ],
        '{{reason}}',
      ),
    ],
    's',
  ) + passing,
  graph(
    'Queued bytes by place',
    |||
      What stockd holds. request: requests that are not whole yet. call: updates that were made
      and wait in the queue of their call. socket: the rest of a write that was cut short. All
      have bounds, whatever clients do.
    |||,
    [query(by('place', server('stockd_queued_bytes')), '{{place}}')],
    'bytes',
    stacked=true,
  ),
  minutely(
    'Credit given back per minute',
    |||
      WINDOW_UPDATE frames from clients, for one stream or for the whole connection. Most clients
      give credit for a part of their window at a time, so a slow one may do so only once in some
      minutes; stock-client with a delay gives it for each update that stockd waits to send. Where
      a blocked stream gets none for much longer, nobody reads any more.
    |||,
    [
      query(
        per_minute(by('scope', rate(server('stockd_window_updates_received_total')))),
        '{{scope}}',
      ),
    ],
  ),
  minutely(
    'Stalled streams per minute',
    |||
      How often clients kept a stream from sending anything at all for stall_timeout.
    |||,
    [query(per_minute(total(rate(server('stockd_streams_stalled_total')))), 'stalled')],
  ),
];

local lag = [
  heading('Lag'),
  graph(
    'Send lag',
    |||
      From when an update was due until the kernel accepted its last byte, time blocked included.
      The highest bucket is the upper bound of the slowest update. The scale is logarithmic.
    |||,
    quantiles('stockd_send_lag_seconds'),
    's',
    width=12,
    style=logarithmic,
  ),
  graph(
    'Event loop lag',
    |||
      How long a turn of the event loop kept new events waiting. If it grows while no stream is
      blocked, stockd itself is what is slow.
    |||,
    quantiles('stockd_event_loop_lag_seconds'),
    's',
    width=12,
    style=logarithmic,
  ),
  heat(
    'Send lag, all updates',
    |||
      How many updates took how long. Two bands are two kinds of clients.
    |||,
    'stockd_send_lag_seconds',
  ),
  heat(
    'Event loop lag, all turns',
    |||
      How many turns of the event loop took how long.
    |||,
    'stockd_event_loop_lag_seconds',
  ),
  graph(
    'Age of the last update',
    |||
      How long before each scrape the feed made its last update, beside the interval that is set
      (0: as fast as clients take them). An age of many intervals with streams open is a feed that
      stands still, or clients that are all blocked.
    |||,
    [
      query(
        'clamp_min(timestamp(%s) - (%s > 0), 0)' % [
          server('stockd_feed_last_update_timestamp_seconds'),
          server('stockd_feed_last_update_timestamp_seconds'),
        ],
        'age, {{instance}}',
      ),
      query(server('stockd_feed_interval_seconds'), 'interval, {{instance}}'),
    ],
    's',
    width=24,
    height=6,
    overrides=[beginning('age', sky), beginning('interval', grey)],
  ),
];

// What is rare, told apart by a label. The sum is there also when nothing has happened, so that the
// panel isn't empty.
local apart(series, label, name='all') = [
  query(per_minute(total(rate(series))), name),
  query(per_minute('%s > 0') % by(label, rate(series)), '{{%s}}' % label),
];

local market_updates = total(rate(server('stockd_market_updates_total'))),
      by_policy(metric) = query(by('policy', server(metric)), '{{policy}}');

local market = [
  heading('Market'),
  timeline(
    'Feed of the market',
    |||
      Whether updates come. stale: none for stale_after. gone: the recording is over, or who wrote to
      the pipe has left. none: the market has no feed. Calls of GetUpdates do not depend on it.
    |||,
    'max by (instance) (%s or 2 * %s or 3 * %s)' % [
      server('stockd_market_feed_state', 'state="live"'),
      server('stockd_market_feed_state', 'state="stale"'),
      server('stockd_market_feed_state', 'state="gone"'),
    ],
    '{{instance}}',
    [{ name: 'live', colour: green }, { name: 'stale', colour: orange }, { name: 'gone', colour: red }],
  ),
  graph(
    'Updates taken and delivered per second',
    |||
      taken: what the market takes from its feed. delivered: events of all subscriptions whose last
      byte the kernel has accepted, heartbeats included. Where each of many subscribers gets all of
      it, the second is as many times the first. The scale is logarithmic.
    |||,
    [
      query(market_updates, 'taken'),
      query(total(rate(server('stockd_market_events_sent_total'))), 'delivered'),
    ],
    'short',
    style=logarithmic,
  ),
  graph(
    'Subscribers by policy',
    |||
      Subscriptions that are open, by what they want to become of updates that they do not take in
      time.
    |||,
    [by_policy('stockd_market_subscribers')],
    'short',
    stacked=true,
    extra=whole,
  ),
  graph(
    'Subscribers behind by policy',
    |||
      Those of them for which something waited when stockd looked last. Some always do while updates
      come; those that stay are slower than the market.
    |||,
    [by_policy('stockd_market_subscribers_behind')],
    'short',
    stacked=true,
    extra=whole,
  ),
  graph(
    'Queue age',
    |||
      How long updates waited for a subscription until it gave them to its connection; a least
      interval that a client asks for is in it. The highest bucket is the upper bound of the oldest
      one. The scale is logarithmic.
    |||,
    quantiles('stockd_market_queue_age_seconds'),
    's',
    width=12,
    style=logarithmic,
  ),
  graph(
    'Send lag of subscriptions',
    |||
      From when the market took an update until the kernel accepted its last byte: the time in the
      queue, and that in the connection. The scale is logarithmic.
    |||,
    quantiles('stockd_market_send_lag_seconds'),
    's',
    width=12,
    style=logarithmic,
  ),
  heat(
    'Queue age, all updates',
    |||
      How many updates waited for how long. Bands are kinds of subscribers: those that keep pace, and
      those that do not.
    |||,
    'stockd_market_queue_age_seconds',
  ),
  heat(
    'Send lag of subscriptions, all updates',
    |||
      How many updates were how old when the kernel had them.
    |||,
    'stockd_market_send_lag_seconds',
  ),
  graph(
    'Merged and dropped per second',
    |||
      Updates that subscriptions did not get, each counted for each of them: merged into newer ones of
      the same ticker, because of conflate or of a least interval, or dropped by drop_oldest. Each
      subscriber is told its own in the stream.
    |||,
    [
      query(total(rate(server('stockd_market_conflated_total'))), 'merged'),
      query(total(rate(server('stockd_market_dropped_total'))), 'dropped'),
    ],
    'short',
  ),
  minutely(
    'Subscribers cut off per minute',
    |||
      Subscriptions that were ended because more waited for them than the limits allow, by the limit.
      history: what was next for them was not in the history any more.
    |||,
    apart(server('stockd_market_cut_off_total'), 'reason'),
  ) + passing,
  minutely(
    'Resumes per minute',
    |||
      Subscriptions that wished to go on where they had been. complete: nothing is missing. history:
      the history did not reach back so far. epoch: stockd was started anew since. ahead: the
      position is one that the market has not come to.
    |||,
    apart(server('stockd_market_resumes_total'), 'outcome'),
  ) + passing,
  graph(
    'History',
    |||
      Bytes of updates that are kept for those who are behind or come back.
    |||,
    [query(total(server('stockd_market_history_bytes')), 'kept')],
    'bytes',
    fill=25,
  ),
  graph(
    'How far the history reaches back',
    |||
      About so long a subscriber may be away and lose nothing: the updates that are kept, by those
      that come in a second. Empty while none come.
    |||,
    [
      query(
        '%s / (%s > 0)' % [
          server('stockd_market_history_updates'),
          rate(server('stockd_market_updates_total')),
        ],
        '{{instance}}',
      ),
    ],
    's',
    extra={ noValue: 'no updates come' },
  ),
  graph(
    'Memory of subscriptions',
    |||
      What all subscriptions take together. It grows with their number and their tickers, not with
      what waits: that is in the history, once for all.
    |||,
    [query(by('instance', server('stockd_market_subscriptions_bytes')), '{{instance}}')],
    'bytes',
  ),
  graph(
    "Age of the market's last update",
    |||
      How long before each scrape the feed gave its last update.
    |||,
    [
      query(
        'clamp_min(timestamp(%s) - (%s > 0), 0)' % [
          server('stockd_market_last_update_timestamp_seconds'),
          server('stockd_market_last_update_timestamp_seconds'),
        ],
        '{{instance}}',
      ),
    ],
    's',
    extra={ noValue: 'no update yet' },
  ),
  minutely(
    'Faults of the feed per minute',
    |||
      Lines of a recording, a pipe or standard input that were no update. The journal has them.
    |||,
    [query(per_minute(total(rate(server('stockd_market_feed_faults_total')))), 'faults')],
  ),
  minutely(
    'Heartbeats and gaps per minute',
    |||
      Heartbeats are for subscriptions to which nothing else was to be sent. A gap tells a subscriber
      what it could not get when it wished to resume.
    |||,
    [
      query(per_minute(total(rate(server('stockd_market_heartbeats_total')))), 'heartbeats'),
      query(per_minute(total(rate(server('stockd_market_gaps_total')))), 'gaps'),
    ],
  ),
];

local calls = [
  heading('Calls and connections'),
  minutely(
    'Calls ended per minute',
    |||
      gRPC statuses that have occurred. Canceled is a client that has gone; ResourceExhausted and
      Unavailable are refusals.
    |||,
    apart(server('grpc_server_handled_total'), 'grpc_code'),
  ) + passing,
  minutely(
    'Calls begun per minute',
    |||
      By method; calls to methods that stockd does not have are counted as other.
    |||,
    apart(server('grpc_server_started_total'), 'grpc_method'),
  ) + passing,
  graph(
    'Calls open',
    |||
      Begun and not ended yet, by method.
    |||,
    [
      query(
        '%s - %s' % [
          total(server('grpc_server_started_total')),
          total(server('grpc_server_handled_total')),
        ],
        'all',
      ),
      query(
        '%s - %s > 0' % [
          by('grpc_method', server('grpc_server_started_total')),
          by('grpc_method', server('grpc_server_handled_total')),
        ],
        '{{grpc_method}}',
      ),
    ],
    'short',
    extra=whole,
  ) + passing,
  graph(
    'Connections',
    |||
      Open now, and TLS handshakes under way, which are no connections yet.
    |||,
    [
      query(total(server('stockd_connections')), 'open'),
      query(total(server('stockd_tls_pending_handshakes')), 'handshakes'),
    ],
    'short',
    extra=whole,
  ),
  minutely(
    'Connections closed per minute',
    |||
      stockd-metrics(7) explains each reason. peer_closed is the ordinary one.
    |||,
    [query(per_minute(total(rate(server('stockd_connections_accepted_total')))), 'accepted')]
    + apart(server('stockd_connections_closed_total'), 'reason', 'closed'),
  ) + passing,
  minutely(
    'Refusals per minute',
    |||
      Connections and calls that were turned away because of a limit, an address or a certificate.
    |||,
    apart(server('stockd_refused_total'), 'reason'),
  ) + passing,
  graph(
    'Traffic',
    |||
      Bytes on the wire, HTTP/2's own included.
    |||,
    [
      query(total(rate(server('stockd_sent_bytes_total'))), 'sent'),
      query(total(rate(server('stockd_received_bytes_total'))), 'received'),
    ],
    'Bps',
  ),
  minutely(
    'TLS handshakes per minute',
    |||
      By outcome; none without TLS.
    |||,
    apart(server('stockd_tls_handshakes_total'), 'outcome'),
  ) + passing,
  graph(
    'Days until the TLS certificate ends',
    |||
      Of the server's own certificates, the one that ends first. Empty without TLS.
    |||,
    [
      query(
        '((%s > 0) - time()) / 86400' % server('stockd_tls_certificate_expiry_timestamp_seconds'),
        '{{instance}}',
      ),
    ],
    'none',
    fill=0,
    extra={ noValue: 'no TLS' },
  ),
];

local process = [
  heading('The process'),
  graph(
    'CPU',
    |||
      Processors used; stockd has one thread, so 100 % is the most.
    |||,
    [query(of_stockd(rate(server('process_cpu_seconds_total'))), '{{instance}}')],
    'percentunit',
  ),
  graph(
    'Memory',
    |||
      Resident memory, and what of it malloc has given out. Neither grows with the speed of
      clients.
    |||,
    [
      query(of_stockd(server('process_resident_memory_bytes')), 'resident, {{instance}}'),
      query(of_stockd(server('process_heap_bytes')), 'heap, {{instance}}'),
    ],
    'bytes',
    overrides=[beginning('resident', sky), beginning('heap', orange)],
  ),
  graph(
    'Descriptors',
    |||
      Open descriptors, and the limit, on a logarithmic scale.
    |||,
    [
      query(of_stockd(server('process_open_fds')), 'open, {{instance}}'),
      query(of_stockd(server('process_max_fds')), 'limit, {{instance}}'),
    ],
    'short',
    overrides=[beginning('open', sky), beginning('limit', red)],
    style=logarithmic,
  ),
];

local clients = [
  heading('stock-client'),
  graph(
    'Processed per second and client',
    |||
      Updates that each client has processed.
    |||,
    [query(by('instance', rate(client('stock_updates_received_total'))), '{{instance}}')],
    'short',
  ),
  minutely(
    'Gaps per minute',
    |||
      Updates whose price is not the price before plus their change: something between the two was
      lost. Slowness alone never makes one.
    |||,
    [query(per_minute(by('instance', rate(client('stock_client_gaps_total')))), '{{instance}}')],
  ),
  minutely(
    'Attempts to connect per minute',
    |||
      A client that cannot connect tries again, less and less often.
    |||,
    apart(client('stock_client_connects_total'), 'outcome'),
  ) + passing,
  minutely(
    'Calls ended per minute, at clients',
    |||
      As the clients saw them end.
    |||,
    apart(client('grpc_client_handled_total'), 'grpc_code'),
  ) + passing,
  graph(
    'CPU of clients',
    |||
      Processors used by each client.
    |||,
    [query(of_client(rate(client('process_cpu_seconds_total'))), '{{instance}}')],
    'percentunit',
  ),
  graph(
    'Memory of clients',
    |||
      Resident memory of each client.
    |||,
    [query(of_client(client('process_resident_memory_bytes')), '{{instance}}')],
    'bytes',
  ),
];

// --- layout --------------------------------------------------------------------------------------

// Fills lines of 24 columns from left to right, beginning at line `top`.
local flowed(panels, top) =
  std.foldl(
    function(state, one)
      local fits = state.x + one.gridPos.w <= 24 && one.type != 'row';
      local x = if fits then state.x else 0, y = if fits then state.y else state.y + state.h;
      {
        x: x + one.gridPos.w,
        y: y,
        h: if fits then std.max(state.h, one.gridPos.h) else one.gridPos.h,
        placed: state.placed + [one { gridPos+: { x: x, y: y } }],
      },
    panels,
    { x: 0, y: top, h: 0, placed: [] }
  ).placed;

local at_top =
  [first { gridPos+: { x: 0, y: 0 } }]
  + std.mapWithIndex(
    function(i, tile) tile { gridPos+: { x: 16 + 4 * (i % 2), y: 4 * std.floor(i / 2) } }, tiles
  );
local panels = at_top + flowed(flow + backpressure + lag + market + calls + process + clients, first.gridPos.h);

// A variable that is asked of Prometheus; what it may be told is a choice of all, several or one.
local asked(name, label, description, query, current) = {
  allValue: '.+',
  current: { selected: true, text: [current], value: [if current == 'All' then '$__all' else current] },
  datasource: source,
  definition: query,
  description: description,
  hide: 0,
  includeAll: true,
  label: label,
  multi: true,
  name: name,
  options: [],
  query: { query: query, refId: 'PrometheusVariableQueryEditor-VariableQuery' },
  refresh: 2,
  regex: '',
  skipUrlSync: false,
  sort: 1,
  type: 'query',
};

local mark(name, colour, expr, title, text) = {
  datasource: source,
  enable: true,
  expr: expr,
  hide: false,
  iconColor: colour,
  name: name,
  // Without it Grafana takes a minute, and the interval of rates with it.
  step: '5s',
  textFormat: text,
  titleFormat: title,
};

{
  annotations: {
    list: [
      {
        builtIn: 1,
        datasource: { type: 'grafana', uid: '-- Grafana --' },
        enable: true,
        hide: true,
        iconColor: sky,
        name: 'Annotations & Alerts',
        type: 'dashboard',
      },
      // The value is the time to be marked, so a mark is at its place however far apart points are.
      mark(
        'Restarts',
        blue,
        of_stockd('1000 * ' + server('process_start_time_seconds')),
        'stockd started',
        '{{instance}}'
      ) + { useValueForTime: true },
      mark(
        'Alerts',
        red,
        'ALERTS{alertname=~"Stockd.*", alertstate="firing"}',
        '{{alertname}}',
        '{{instance}} {{reason}}'
      ),
    ],
  },
  description: 'Backpressure, seen: what stockd sends, what its clients process, and what lies between.',
  editable: false,
  fiscalYearStartMonth: 0,
  graphTooltip: 1,
  id: null,
  links: [],
  liveNow: false,
  panels: std.mapWithIndex(function(i, one) one { id: i + 1 }, panels),
  refresh: '5s',
  schemaVersion: 39,
  tags: ['stockd', 'grpc', 'backpressure'],
  templating: {
    list: [
      {
        current: { selected: true, text: 'stockd', value: 'stockd-prometheus' },
        description: 'The Prometheus that scrapes stockd.',
        hide: 0,
        includeAll: false,
        label: 'Data source',
        multi: false,
        name: 'datasource',
        options: [],
        query: 'prometheus',
        refresh: 1,
        regex: '',
        skipUrlSync: false,
        type: 'datasource',
      },
      asked(
        'job',
        'Job',
        'Jobs of Prometheus that scrape stockd.',
        'label_values(stock_updates_sent_total, job)',
        'stockd',
      ),
      asked(
        'instance',
        'Instance',
        'Servers.',
        'label_values(stock_updates_sent_total{job=~"$job"}, instance)',
        'All',
      ),
      asked(
        'client_job',
        'Client job',
        'Jobs of Prometheus that scrape stock-client.',
        'label_values(stock_updates_received_total, job)',
        'stock-client',
      ),
      asked(
        'client_instance',
        'Client instance',
        'Clients.',
        'label_values(stock_updates_received_total{job=~"$client_job"}, instance)',
        'All',
      ),
    ],
  },
  time: { from: 'now-5m', to: 'now' },
  timepicker: { refresh_intervals: ['1s', '5s', '10s', '30s', '1m', '5m', '15m'] },
  timezone: 'browser',
  title: 'stockd',
  uid: 'stockd',
  weekStart: '',
}
