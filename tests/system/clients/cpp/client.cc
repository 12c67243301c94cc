// stockd seen by grpc++. Run as: client PORT SCENARIO [ARGUMENT...]; prints one line of JSON. The
// scenarios are described in tests/system/harness/clients.py.

#include "stockservice.grpc.pb.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <memory>
#include <mutex>
#include <regex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

using stockservice::EmptyRequest;
using stockservice::StockService;
using stockservice::StockUpdate;

namespace
{

struct Result {
    long received = 0;
    int code = -1;
    std::string details;
    std::string fault;
};

std::string quote(const std::string &text)
{
    std::ostringstream out;
    out << '"';
    for (unsigned char c : text) {
        if (c == '"' || c == '\\')
            out << '\\' << c;
        else if (c < 0x20)
            out << ' ';
        else
            out << c;
    }
    out << '"';
    return out.str();
}

void print(const std::vector<Result> &results)
{
    std::cout << "{\"streams\": [";
    const char *separator = "";
    for (const auto &result : results) {
        std::cout << separator << "{\"received\": " << result.received
                  << ", \"code\": " << result.code << ", \"details\": " << quote(result.details)
                  << ", \"fault\": " << (result.fault.empty() ? "null" : quote(result.fault))
                  << "}";
        separator = ", ";
    }
    std::cout << "]}" << std::endl;
}

bool is_whole_number_of_shares(const StockUpdate &u)
{
    const long near = std::max(0L, std::lround(static_cast<double>(u.marketcap()) / u.price()) - 1);
    for (long shares = near; shares <= near + 3; shares++)
        if (static_cast<int64_t>(u.price() * static_cast<double>(shares)) == u.marketcap())
            return true;
    return false;
}

// The first fault of an update that comes after the price `before`; empty if there is none.
std::string fault_of(const StockUpdate &u, double before)
{
    static const std::regex timestamp(R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d([+-]\d\d:\d\d|Z))");
    const double relative = u.change() / before * 100;
    const char *wrong = nullptr;
    if (u.ticker() != "AAPL")
        wrong = "ticker";
    else if (u.price() != before + u.change() || !(u.price() > 0))
        wrong = "price";
    else if (!(u.change() >= -2.5 && u.change() <= 2.5))
        wrong = "change";
    else if (!(std::fabs(u.changepercent() - relative) <= 1e-9 * (1 + std::fabs(relative))))
        wrong = "changePercent";
    else if (u.volume() < 0 || u.volume() >= 10000)
        wrong = "volume";
    else if (u.openprice() != 150.0)
        wrong = "openPrice";
    else if (!(u.highprice() >= u.price() && u.highprice() <= u.price() + 2))
        wrong = "highPrice";
    else if (!(u.lowprice() <= u.price() && u.lowprice() >= u.price() - 2))
        wrong = "lowPrice";
    else if (!is_whole_number_of_shares(u))
        wrong = "marketCap";
    else if (!std::regex_match(u.timestamp(), timestamp))
        wrong = "timestamp";
    return wrong ? std::string(wrong) + " of " + u.ShortDebugString() : std::string();
}

std::shared_ptr<grpc::Channel> connect(const std::string &port)
{
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    return grpc::CreateCustomChannel("127.0.0.1:" + port, grpc::InsecureChannelCredentials(),
                                     arguments);
}

// Follows one call until `enough` says so after an update, or the server ends it.
Result follow(StockService::Stub &stub, grpc::ClientContext &context,
              const std::function<bool(long received)> &enough)
{
    Result result;
    StockUpdate update;
    double before = 150.0;
    bool cancelled = false;
    auto reader = stub.GetUpdates(&context, EmptyRequest());
    while (!cancelled && reader->Read(&update)) {
        if (result.fault.empty())
            result.fault = fault_of(update, before);
        before = update.price();
        result.received++;
        if (enough(result.received)) {
            context.TryCancel();
            cancelled = true;
        }
    }
    const grpc::Status status = reader->Finish();
    result.code = status.error_code();
    result.details = status.error_message();
    return result;
}

std::vector<Result> follow_all(const std::string &port, int streams,
                               const std::function<bool(int stream, long received)> &enough,
                               std::vector<std::unique_ptr<grpc::ClientContext>> &contexts)
{
    auto stub = StockService::NewStub(connect(port));
    std::vector<Result> results(streams);
    std::vector<std::thread> threads;
    for (int i = 0; i < streams; i++)
        contexts.push_back(std::make_unique<grpc::ClientContext>());
    for (int i = 0; i < streams; i++)
        threads.emplace_back([&, i] {
            results[i] =
                follow(*stub, *contexts[i], [&, i](long received) { return enough(i, received); });
        });
    for (auto &thread : threads)
        thread.join();
    return results;
}

std::vector<Result> updates(const std::string &port, long count, int streams)
{
    std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
    return follow_all(
        port, streams, [&](int, long received) { return received >= count; }, contexts);
}

std::vector<Result> deadline(const std::string &port, long milliseconds)
{
    auto stub = StockService::NewStub(connect(port));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::milliseconds(milliseconds));
    return {follow(*stub, context, [](long) { return false; })};
}

// Until all streams together have received `total`, counted from when each had its first.
std::vector<Result> fair(const std::string &port, long total, int streams)
{
    std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
    std::vector<long> counts(streams);
    std::atomic<int> begun{0};
    std::atomic<long> sum{0};
    auto results = follow_all(
        port, streams,
        [&](int stream, long received) {
            if (received == 1)
                begun++;
            if (begun < streams)
                return false;
            counts[stream]++;
            if (++sum < total)
                return false;
            for (auto &context : contexts)
                context->TryCancel();
            return true;
        },
        contexts);
    for (int i = 0; i < streams; i++)
        results[i].received = counts[i];
    return results;
}

// Reads on until the server ends the calls; says on a line of its own when all have begun.
std::vector<Result> end(const std::string &port, int streams)
{
    std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
    std::atomic<int> begun{0};
    return follow_all(
        port, streams,
        [&](int, long received) {
            if (received == 1 && ++begun == streams)
                std::cout << "begun" << std::endl;
            return false;
        },
        contexts);
}

std::vector<Result> unknown(const std::string &port)
{
    auto channel = connect(port);
    std::vector<Result> results;
    for (const char *path : {"/stockservice.StockService/Nothing", "/no.Service/Method"}) {
        grpc::GenericStub stub(channel);
        grpc::ClientContext context;
        grpc::CompletionQueue queue;
        grpc::ByteBuffer request, response;
        grpc::Slice empty;
        request = grpc::ByteBuffer(&empty, 1);
        auto call = stub.PrepareUnaryCall(&context, path, request, &queue);
        grpc::Status status;
        call->StartCall();
        call->Finish(&response, &status, nullptr);
        void *tag = nullptr;
        bool ok = false;
        queue.Next(&tag, &ok);
        Result result;
        result.code = status.error_code();
        result.details = status.error_message();
        results.push_back(result);
    }
    return results;
}

} // namespace

int main(int argc, char **argv)
{
    if (argc < 3) {
        std::cerr << "usage: client PORT SCENARIO [ARGUMENT...]\n";
        return 2;
    }
    const std::string port = argv[1];
    const std::string scenario = argv[2];
    const auto number = [&](int i) { return argc > i ? std::atol(argv[i]) : 0; };
    if (scenario == "updates")
        print(updates(port, number(3), static_cast<int>(number(4))));
    else if (scenario == "deadline")
        print(deadline(port, number(3)));
    else if (scenario == "unknown")
        print(unknown(port));
    else if (scenario == "fair")
        print(fair(port, number(3), static_cast<int>(number(4))));
    else if (scenario == "end")
        print(end(port, static_cast<int>(number(3))));
    else
        return 2;
    return 0;
}
