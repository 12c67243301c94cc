// The service of proto/stockservice.proto on grpc++ with its callback API: a reactor per call,
// whose OnWriteDone starts the next write, at once or, when an interval is given, from an alarm.
// Subscribe is of one shared walk, each step of which is serialized once into a buffer that all
// writes share. All options are the defaults. Beside it is grpc++'s own health service.

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <unordered_set>

#include "stockservice.grpc.pb.h"

namespace
{

using stockservice::EmptyRequest;
using stockservice::MarketEvent;
using stockservice::StockService;
using stockservice::StockUpdate;

constexpr double start_price = 150;

// The random walk of one call.
class Walk
{
  public:
    Walk() : random_(std::random_device{}())
    {
    }

    void step(StockUpdate *update)
    {
        double before = price_;
        double price = before + uniform(5) - 2.5;

        if (price <= 0)
            price = before + (before - price);
        price_ = price;
        update->set_ticker("AAPL");
        update->set_price(price);
        update->set_change(price - before);
        update->set_changepercent((price - before) / before * 100);
        update->set_volume(static_cast<int64_t>(uniform(10000)));
        update->set_openprice(start_price);
        update->set_highprice(price + uniform(2));
        update->set_lowprice(price - uniform(2));
        update->set_marketcap(static_cast<int64_t>(price * std::floor(uniform(1000000))));
        update->set_timestamp(now());
    }

  private:
    double uniform(double end)
    {
        return std::uniform_real_distribution<double>(0, end)(random_);
    }

    // Formats the time once a second, because its text does not change in between.
    const std::string &now()
    {
        std::time_t second = std::time(nullptr);

        if (second != second_) {
            char text[32];
            std::tm parts;

            second_ = second;
            localtime_r(&second, &parts);
            std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S%z", &parts);
            timestamp_ = text;
            timestamp_.insert(timestamp_.size() - 2, ":"); // %z has no colon, RFC 3339 has
        }
        return timestamp_;
    }

    std::mt19937_64 random_;
    double price_ = start_price;
    std::time_t second_ = 0;
    std::string timestamp_;
};

class Call : public grpc::ServerWriteReactor<StockUpdate>
{
  public:
    explicit Call(std::chrono::milliseconds interval)
        : interval_(interval), due_(std::chrono::system_clock::now())
    {
        next();
    }

    void OnWriteDone(bool ok) override
    {
        if (ok)
            next();
        else
            end();
    }

    void OnCancel() override
    {
        std::lock_guard<std::mutex> lock(mutex_);

        cancelled_ = true;
        if (waiting_)
            alarm_.Cancel();
    }

    void OnDone() override
    {
        delete this;
    }

  private:
    void next()
    {
        if (interval_.count() == 0) {
            write();
            return;
        }
        std::lock_guard<std::mutex> lock(mutex_);

        due_ += interval_;
        waiting_ = true;
        alarm_.Set(due_, [this](bool ok) { on_alarm(ok); });
        if (cancelled_)
            alarm_.Cancel();
    }

    void on_alarm(bool ok)
    {
        {
            std::lock_guard<std::mutex> lock(mutex_);

            waiting_ = false;
        }
        if (ok)
            write();
        else
            end();
    }

    void write()
    {
        walk_.step(&update_);
        StartWrite(&update_);
    }

    void end()
    {
        Finish(grpc::Status::CANCELLED);
    }

    const std::chrono::milliseconds interval_;
    std::chrono::system_clock::time_point due_;
    Walk walk_;
    StockUpdate update_;
    grpc::Alarm alarm_;
    std::mutex mutex_; // cancelling comes on a thread of its own
    bool waiting_ = false;
    bool cancelled_ = false;
};

// How many updates may wait for one subscriber before the market waits for it.
constexpr std::size_t waiting_max = 16;

class Market;

// One call of Subscribe. Writes begin here and in the market's thread.
class Subscriber : public grpc::ServerWriteReactor<grpc::ByteBuffer>
{
  public:
    explicit Subscriber(Market *market);

    void push(const grpc::ByteBuffer &message)
    {
        std::unique_lock<std::mutex> lock(mutex_);

        room_.wait(lock, [this] { return ended_ || waiting_.size() < waiting_max; });
        if (ended_)
            return;
        waiting_.push_back(message); // its bytes are shared, and counted
        if (waiting_.size() == 1)
            StartWrite(&waiting_.front());
    }

    void OnWriteDone(bool ok) override
    {
        std::lock_guard<std::mutex> lock(mutex_);

        waiting_.pop_front();
        ended_ = ended_ || !ok;
        if (ended_)
            Finish(grpc::Status::CANCELLED);
        else if (!waiting_.empty())
            StartWrite(&waiting_.front());
        room_.notify_all();
    }

    void OnCancel() override
    {
        std::lock_guard<std::mutex> lock(mutex_);

        if (ended_)
            return;
        ended_ = true;
        if (waiting_.empty()) // else when the write under way is over
            Finish(grpc::Status::CANCELLED);
        room_.notify_all();
    }

    void OnDone() override;

  private:
    Market *const market_;
    std::mutex mutex_;
    std::condition_variable room_;
    std::deque<grpc::ByteBuffer> waiting_; // the first is being written
    bool ended_ = false;
};

// What all subscribers share: a walk, and who wants it.
class Market
{
  public:
    void add(Subscriber *subscriber)
    {
        std::lock_guard<std::mutex> lock(mutex_);

        subscribers_.insert(subscriber);
    }

    void remove(Subscriber *subscriber)
    {
        std::lock_guard<std::mutex> lock(mutex_);

        subscribers_.erase(subscriber);
    }

    void run(std::chrono::milliseconds interval)
    {
        auto due = std::chrono::steady_clock::now();

        for (std::uint64_t sequence = 1;; sequence++) {
            due = std::max(due + interval, std::chrono::steady_clock::now());
            std::this_thread::sleep_until(due);
            publish(sequence);
        }
    }

  private:
    void publish(std::uint64_t sequence)
    {
        auto now = std::chrono::system_clock::now().time_since_epoch();
        MarketEvent event;
        grpc::ByteBuffer message;
        bool own_buffer;

        event.set_epoch(1);
        event.set_sequence(sequence);
        walk_.step(event.mutable_update());
        event.set_time_unix_nano(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
        if (!grpc::SerializationTraits<MarketEvent>::Serialize(event, &message, &own_buffer).ok())
            std::abort();

        std::lock_guard<std::mutex> lock(mutex_);

        for (Subscriber *subscriber : subscribers_)
            subscriber->push(message);
    }

    Walk walk_;
    std::mutex mutex_;
    std::unordered_set<Subscriber *> subscribers_;
};

Subscriber::Subscriber(Market *market) : market_(market)
{
    market_->add(this);
}

void Subscriber::OnDone()
{
    market_->remove(this);
    delete this;
}

// GetUpdates with messages of its own, Subscribe with bytes.
using CallbackService = StockService::WithCallbackMethod_GetUpdates<
    StockService::WithRawCallbackMethod_Subscribe<StockService::Service>>;

class Service : public CallbackService
{
  public:
    Service(std::chrono::milliseconds interval, Market *market)
        : interval_(interval), market_(market)
    {
    }

    grpc::ServerWriteReactor<grpc::ByteBuffer> *Subscribe(grpc::CallbackServerContext *,
                                                          const grpc::ByteBuffer *) override
    {
        return new Subscriber(market_);
    }

    grpc::ServerWriteReactor<StockUpdate> *GetUpdates(grpc::CallbackServerContext *,
                                                      const EmptyRequest *) override
    {
        return new Call(interval_);
    }

  private:
    const std::chrono::milliseconds interval_;
    Market *const market_;
};

} // namespace

int main(int argc, char **argv)
{
    int port = 0;
    int interval_ms = 0;

    for (int i = 1; i + 1 < argc; i += 2) {
        if (std::strcmp(argv[i], "--port") == 0)
            port = std::atoi(argv[i + 1]);
        else if (std::strcmp(argv[i], "--interval") == 0)
            interval_ms = std::atoi(argv[i + 1]);
    }

    std::chrono::milliseconds interval(interval_ms);
    Market market;
    Service service(interval, &market);

    grpc::EnableDefaultHealthCheckService(true);
    grpc::ServerBuilder builder;

    builder.AddListeningPort("127.0.0.1:" + std::to_string(port), grpc::InsecureServerCredentials(),
                             &port);
    builder.RegisterService(&service);
    std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
    if (!server)
        return 1;
    std::printf("listening on 127.0.0.1:%d\n", port);
    std::fflush(stdout);
    if (interval_ms > 0)
        std::thread(&Market::run, &market, interval).detach();
    server->Wait();
}
