// The service of proto/stockservice.proto as a grpc-go user would write it, and a client of it that
// takes its time: `serve` counts an update as sent when Send has returned, `follow` counts it as
// received when it has been slept on. Both show their counter at /metrics; all else is the default.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"math/rand"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "stockd.example/plateau/stockservice"
)

var (
	count    atomic.Int64
	pace     = flag.Duration("pace", 100*time.Millisecond, "from an update to the next, or of work on one")
	window   = flag.Int("window", 0, "the client's stream window; 0 is the default, which may grow")
	counters = map[string]string{"serve": "stock_updates_sent_total", "follow": "stock_updates_received_total"}
)

func getUpdates(_ any, stream grpc.ServerStream) error {
	for before := 150.0; ; time.Sleep(*pace) {
		price := before + rand.Float64()*5 - 2.5
		err := stream.SendMsg(&pb.StockUpdate{
			Ticker: "AAPL", Price: price, Change: price - before, ChangePercent: (price - before) / before * 100,
			Volume: rand.Int63n(10000), OpenPrice: 150, HighPrice: price + rand.Float64()*2,
			LowPrice: price - rand.Float64()*2, MarketCap: int64(price * float64(rand.Int63n(1000000))),
			Timestamp: time.Now().Format("2006-01-02T15:04:05-07:00"),
		})
		if err != nil {
			return err
		}
		count.Add(1)
		before = max(price, 3)
	}
}

var updates = grpc.StreamDesc{StreamName: "GetUpdates", Handler: getUpdates, ServerStreams: true}

func serve() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	log.Print("gRPC on ", listener.Addr())
	server := grpc.NewServer()
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "stockservice.StockService", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{updates},
	}, struct{}{})
	return server.Serve(listener)
}

func follow(address string) error {
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	if *window > 0 {
		options = append(options, grpc.WithInitialWindowSize(int32(*window)))
	}
	connection, err := grpc.Dial(address, options...) // not NewClient: older releases have none
	if err != nil {
		return err
	}
	stream, err := connection.NewStream(context.Background(), &updates, "/stockservice.StockService/GetUpdates")
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&pb.EmptyRequest{}); err != nil {
		return err
	}
	for update := new(pb.StockUpdate); ; count.Add(1) {
		if err := stream.RecvMsg(update); err != nil {
			return err
		}
		time.Sleep(*pace)
	}
}

func main() {
	if len(os.Args) < 2 || counters[os.Args[1]] == "" {
		log.Fatal("usage: plateau serve|follow [-pace TIME] [-window BYTES] [ADDRESS]")
	}
	flag.CommandLine.Parse(os.Args[2:])
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	log.Print("metrics on ", listener.Addr())
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, counters[os.Args[1]], count.Load())
	}))
	if os.Args[1] == "serve" {
		log.Fatal(serve())
	}
	log.Fatal(follow(flag.Arg(0)))
}
