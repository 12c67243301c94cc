// The service of proto/stockservice.proto on grpc++ with its callback API: a reactor per call,
// whose OnWriteDone starts the next write, at once or, when an interval is given, from an alarm.
// All options are the defaults. Beside it is grpc++'s own health service.

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <mutex>
#include <random>
#include <string>

#include "stockservice.grpc.pb.h"

namespace
{

using stockservice::EmptyRequest;
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

class Service : public stockservice::StockService::CallbackService
{
  public:
    explicit Service(std::chrono::milliseconds interval) : interval_(interval)
    {
    }

    grpc::ServerWriteReactor<StockUpdate> *GetUpdates(grpc::CallbackServerContext *,
                                                      const EmptyRequest *) override
    {
        return new Call(interval_);
    }

  private:
    const std::chrono::milliseconds interval_;
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

    Service service{std::chrono::milliseconds(interval_ms)};

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
    server->Wait();
}
