/*
 * Where there is no libFuzzer: runs a target once over the files, and the files in the folders,
 * that the arguments name. So the corpus is a test in every build, whatever the compiler.
 */
#include "base/util.h"
#include "fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define INPUT_MAX ((size_t)1 << 20)

static unsigned runs;

static void run_file(const char *path)
{
    FILE *file = fopen(path, "rbe");
    uint8_t *bytes = malloc(INPUT_MAX);
    uint8_t *copy;
    size_t size;

    CHECK(file && bytes);
    size = fread(bytes, 1, INPUT_MAX, file);
    CHECK(!ferror(file));
    (void)fclose(file);
    copy = fuzz_copy(bytes, size, false);
    free(bytes);
    (void)LLVMFuzzerTestOneInput(copy, size);
    free(copy);
    runs++;
}

static void run_folder(const char *path)
{
    DIR *folder = opendir(path);
    const struct dirent *entry;
    char file[4096];

    CHECK(folder);
    while ((entry = readdir(folder))) {
        if (entry->d_name[0] == '.')
            continue;
        (void)snprintf(file, sizeof(file), "%s/%s", path, entry->d_name);
        (void)fprintf(stderr, "%s\n", file);
        run_file(file);
    }
    (void)closedir(folder);
}

int main(int argc, char **argv)
{
    (void)LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++) {
        struct stat status;

        CHECK(stat(argv[i], &status) == 0);
        if (S_ISDIR(status.st_mode))
            run_folder(argv[i]);
        else
            run_file(argv[i]);
    }
    (void)fprintf(stderr, "%u inputs\n", runs);
    /* A folder that is not found, or empty, is no success. */
    return runs > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
