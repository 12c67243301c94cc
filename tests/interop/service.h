/*
 * grpc.testing.TestService, as the descriptions of gRPC's interoperability tests have it
 * (github.com/grpc/grpc/doc/interop-test-descriptions.md), on stockd's own gRPC layer.
 */
#pragma once

#include "rpc/service.h"

/* Its methods; their counters are for the whole program. */
struct method_table test_service_methods(void);
