/* Any bytes as an experiment file. What is accepted must survive its own emission: read again it
 * gives the same text. The first byte chooses what is expected of the text. */
#include "experiments/config.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static void check_again(const lh_config *config, unsigned flags)
{
    lh_config *again = NULL;
    char *first = NULL, *second = NULL;
    fuzz_expect(lh_config_emit(config, &first) == LH_OK, "a configuration can be emitted");
    lh_status st = lh_config_parse(first, strlen(first), "again", flags, &again);
    fuzz_expect(st == LH_OK, "what was emitted can be read");
    fuzz_expect(lh_config_emit(again, &second) == LH_OK, "and emitted again");
    fuzz_expect(strcmp(first, second) == 0, "both texts are the same");
    lh_config_destroy(&again);
    lh_free(&first);
    lh_free(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const unsigned flags[] = {0, LH_CONFIG_PLAN, LH_CONFIG_PARTIAL,
                                     LH_CONFIG_PARTIAL | LH_CONFIG_PLAN};
    lh_config *config = NULL;
    unsigned how = size > 0 ? flags[data[0] % 4] : 0;
    const char *text = size > 0 ? (const char *)data + 1 : "";
    lh_status st = fuzz_status(lh_config_parse(text, size > 0 ? size - 1 : 0, "f", how, &config));
    fuzz_expect((st == LH_OK) == (config != NULL), "a configuration, or an error");
    if (config != NULL) check_again(config, how);
    lh_config_destroy(&config);
    return 0;
}
