/*
 * A descriptor set with its index: which file has a name, which file declares a symbol or an
 * extension, and what a file needs beside itself. Read-only once it is made.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct descriptors;

/* Borrowed from its `struct descriptors`, like all that it points at. */
struct descriptor_file {
    const char *name;     /* as imports spell it */
    size_t index;         /* among all files, from 0 */
    const uint8_t *bytes; /* a google.protobuf.FileDescriptorProto, as it stands in the set */
    size_t size;

    /* The file itself, then all that it imports, and what those import: each once. */
    const struct descriptor_file *const *closure;
    size_t closure_count;
};

/* Is it one of the kinds of things that have a full name? */
enum descriptor_kind {
    DESCRIPTOR_ANY,
    DESCRIPTOR_MESSAGE,
    DESCRIPTOR_SERVICE,
};

struct descriptor_extension {
    const char *type; /* the full name of the message that is extended */
    int32_t number;
    const struct descriptor_file *file;
};

/*
 * `set` is a serialized google.protobuf.FileDescriptorSet, borrowed for the call. 0, -ENOMEM, or
 * -EINVAL if it is none, or a file imports one that is not in the set.
 */
int descriptors_new(struct descriptors **ret_descriptors, const uint8_t *set, size_t size);

/* NULL is allowed; returns NULL. */
struct descriptors *descriptors_free(struct descriptors *descriptors);

size_t descriptors_file_count(const struct descriptors *descriptors);

/* NULL: there is none. */
const struct descriptor_file *descriptors_find_file(const struct descriptors *descriptors,
                                                    const char *name);

/*
 * The file that declares a full name ("package.Message.field"), without a dot in front, of the
 * given kind; NULL: none does. As in protobuf's own pools, values of an enum are named as if they
 * stood beside it, not in it.
 */
const struct descriptor_file *descriptors_find_symbol(const struct descriptors *descriptors,
                                                      const char *name, enum descriptor_kind kind);

/* The extensions of a message, by number, and how many there are; 0 if it is not known, too. */
size_t descriptors_find_extensions(const struct descriptors *descriptors, const char *type,
                                   const struct descriptor_extension **ret_extensions);
