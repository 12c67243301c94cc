// The service of proto/stockservice.proto on grpc-go, as its users would write it: a goroutine per
// call that sends, and sleeps in between when an interval is given. All options are the defaults.
package main

import (
	"flag"
	"fmt"
	"log"
	"math/rand"
	"net"
	"time"

	"google.golang.org/grpc"

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

type service struct {
	pb.UnimplementedStockServiceServer
	interval time.Duration
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
	flag.Parse()

	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", *port))
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterStockServiceServer(server, &service{interval: time.Duration(*interval) * time.Millisecond})
	fmt.Printf("listening on %s\n", listener.Addr())
	log.Fatal(server.Serve(listener))
}
