// The service of proto/stockservice.proto on grpc-go, as its users would write it: a goroutine per
// call that sends, and sleeps in between when an interval is given. Subscribe is of one shared walk,
// each step of which is encoded once. Beside it is grpc-go's own health service. All options are the
// defaults; with a certificate it speaks TLS.
package main

import (
	"flag"
	"fmt"
	"log"
	"math/rand"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	pb "stockd.example/grpcgo/stockservice"
)

const startPrice = 150.0

// walk is the random walk of one call.
type walk struct {
	random    *rand.Rand
	price     float64
	second    int64
	timestamp string
}

func newWalk() *walk {
	return &walk{random: rand.New(rand.NewSource(rand.Int63())), price: startPrice}
}

// now formats the time once a second, because its text does not change in between.
func (w *walk) now() string {
	t := time.Now()
	if second := t.Unix(); second != w.second {
		w.second = second
		w.timestamp = t.Format("2006-01-02T15:04:05-07:00")
	}
	return w.timestamp
}

func (w *walk) step() *pb.StockUpdate {
	before := w.price
	price := before + w.random.Float64()*5 - 2.5
	if price <= 0 {
		price = before + (before - price)
	}
	w.price = price
	return &pb.StockUpdate{
		Ticker:        "AAPL",
		Price:         price,
		Change:        price - before,
		ChangePercent: (price - before) / before * 100,
		Volume:        w.random.Int63n(10000),
		OpenPrice:     startPrice,
		HighPrice:     price + w.random.Float64()*2,
		LowPrice:      price - w.random.Float64()*2,
		MarketCap:     int64(price * float64(w.random.Int63n(1000000))),
		Timestamp:     w.now(),
	}
}

// waitingMax is how many updates may wait for one subscriber before the market waits for it.
const waitingMax = 16

// subscriber is one call of Subscribe; its goroutine takes from updates what it sends.
type subscriber struct {
	stream  grpc.ServerStreamingServer[pb.MarketEvent]
	updates chan *grpc.PreparedMsg
}

// market is what all subscribers share: a walk, and who wants it.
type market struct {
	mutex       sync.Mutex
	subscribers map[*subscriber]struct{}
}

func (m *market) add(s *subscriber) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.subscribers[s] = struct{}{}
}

func (m *market) remove(s *subscriber) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	delete(m.subscribers, s)
}

// publish encodes the event once, and hands it to all.
func (m *market) publish(event *pb.MarketEvent) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	var message *grpc.PreparedMsg
	for s := range m.subscribers {
		if message == nil {
			prepared := new(grpc.PreparedMsg)
			if err := prepared.Encode(s.stream, event); err != nil {
				continue
			}
			message = prepared
		}
		select {
		case s.updates <- message:
		case <-s.stream.Context().Done():
		}
	}
}

func (m *market) run(interval time.Duration) {
	w := newWalk()
	ticker := time.NewTicker(interval)
	for sequence := uint64(1); ; sequence++ {
		<-ticker.C
		m.publish(&pb.MarketEvent{
			Epoch:        1,
			Sequence:     sequence,
			Event:        &pb.MarketEvent_Update{Update: w.step()},
			TimeUnixNano: uint64(time.Now().UnixNano()),
		})
	}
}

type service struct {
	pb.UnimplementedStockServiceServer
	interval time.Duration
	market   *market
}

func (s *service) Subscribe(_ *pb.SubscribeRequest, stream grpc.ServerStreamingServer[pb.MarketEvent]) error {
	subscriber := &subscriber{stream: stream, updates: make(chan *grpc.PreparedMsg, waitingMax)}
	s.market.add(subscriber)
	defer s.market.remove(subscriber)
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case message := <-subscriber.updates:
			if err := stream.SendMsg(message); err != nil {
				return err
			}
		}
	}
}

func (s *service) GetUpdates(_ *pb.EmptyRequest, stream grpc.ServerStreamingServer[pb.StockUpdate]) error {
	w := newWalk()
	if s.interval == 0 {
		for {
			if err := stream.Send(w.step()); err != nil {
				return err
			}
		}
	}
	ticker := time.NewTicker(s.interval)
	defer ticker.Stop()
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-ticker.C:
			if err := stream.Send(w.step()); err != nil {
				return err
			}
		}
	}
}

func main() {
	port := flag.Int("port", 0, "port on the loopback; 0 is any free one, which is printed")
	interval := flag.Int("interval", 0, "milliseconds between two updates; 0 is as fast as it goes")
	certificate := flag.String("certificate", "", "file of the server's certificate; empty is no TLS")
	key := flag.String("key", "", "file of its key")
	flag.Parse()

	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", *port))
	if err != nil {
		log.Fatal(err)
	}
	var options []grpc.ServerOption
	if *certificate != "" {
		creds, err := credentials.NewServerTLSFromFile(*certificate, *key)
		if err != nil {
			log.Fatal(err)
		}
		options = append(options, grpc.Creds(creds))
	}
	server := grpc.NewServer(options...)
	market := &market{subscribers: make(map[*subscriber]struct{})}
	step := time.Duration(*interval) * time.Millisecond
	if step > 0 {
		go market.run(step)
	}
	pb.RegisterStockServiceServer(server, &service{interval: step, market: market})
	healthpb.RegisterHealthServer(server, health.NewServer())
	fmt.Printf("listening on %s\n", listener.Addr())
	log.Fatal(server.Serve(listener))
}
