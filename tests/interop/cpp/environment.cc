/*
 * The two parts of gRPC's test support that its interoperability client calls and that would drag
 * in most of the rest: no case that is run here needs what they do.
 */
#include "test/core/security/oauth2_utils.h"
#include "test/core/util/test_config.h"

namespace grpc::testing
{

/* Handlers that show the stack of a crash. */
TestEnvironment::TestEnvironment(int *, char **)
{
}

TestEnvironment::~TestEnvironment() = default;

} // namespace grpc::testing

/* A token from a cloud's metadata server. The client aborts on NULL. */
char *grpc_test_fetch_oauth2_token_with_credentials(grpc_call_credentials *)
{
    return nullptr;
}
