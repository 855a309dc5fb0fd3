/* Any bytes as JSON: what is accepted is a tree whose items add up, with text that ends within it. */
#include "io/json_read.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <string.h>

/* The item's members, and theirs. Returns the item behind. */
static const lh_json_item *json_check(const lh_json_tree *t, const lh_json_item *item)
{
    const lh_json_item *end = t->item + t->count;
    bool holds = item->kind == LH_JSON_LIST || item->kind == LH_JSON_OBJECT;
    fuzz_expect(item->items >= 1 && item->items <= end - item, "an item ends within the tree");
    fuzz_expect(holds || (item->items == 1 && item->count == 0), "a plain value has no members");
    fuzz_expect(item->kind != LH_JSON_NUMBER || !isnan(item->number), "a number is one");
    if (item->kind == LH_JSON_STRING)
        fuzz_expect(item->text >= t->text && item->text + strlen(item->text) < t->text + t->used,
                    "text lies within the tree");
    const lh_json_item *next = item + 1;
    for (int64_t i = 0; i < item->count; i++) {
        fuzz_expect((next->key != NULL) == (item->kind == LH_JSON_OBJECT), "members have keys");
        if (next->key != NULL)
            fuzz_expect(lh_json_find(item, next->key) != NULL, "a member is found by its key");
        next = json_check(t, next);
    }
    fuzz_expect(next == item + item->items, "members fill their item");
    return next;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lh_json_tree t = {0};
    char *text = NULL; /* of just this length, so that a read behind it is seen */
    if (lh_new(size, &text) != LH_OK) return 0;
    if (size > 0) memcpy(text, data, size);
    if (fuzz_status(lh_json_read(&t, text, size)) == LH_OK)
        fuzz_expect(json_check(&t, t.item) == t.item + t.count, "one value");
    else
        fuzz_expect(t.count == 0, "a tree, or an error");
    lh_json_tree_free(&t);
    lh_free(&text);
    return 0;
}
