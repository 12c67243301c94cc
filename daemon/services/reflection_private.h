/* The reflection service with another descriptor set than the embedded one, for tests. */
#pragma once

#include "services/reflection.h"

/* As reflection_service_new(); `set` is a serialized FileDescriptorSet, borrowed for the call. */
int reflection_service_new_with(struct reflection_service **ret_service, const uint8_t *set,
                                size_t size, const char *const *services, size_t count);
