/*
 * A serialized google.protobuf.FileDescriptorSet of all .proto files in this folder and what they
 * import, comments included: protobuf-c's generated code knows how to pack messages, but not how
 * to describe them to others, as reflection does. The build makes it (embed.cmake).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

extern const uint8_t descriptor_set[];
extern const size_t descriptor_set_size;
