// The service of proto/stockservice.proto on grpc-go, as its users would write it: a goroutine per
// call that sends, and sleeps in between when an interval is given. Beside it is grpc-go's own health
// service. All options are the defaults; with a certificate it speaks TLS.
package main

import (
	"flag"
	"fmt"
	"log"
	"math/rand"
	"net"
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
	pb.RegisterStockServiceServer(server, &service{interval: time.Duration(*interval) * time.Millisecond})
	healthpb.RegisterHealthServer(server, health.NewServer())
	fmt.Printf("listening on %s\n", listener.Addr())
	log.Fatal(server.Serve(listener))
}
