/* Looking at what a tape computes. */
#include "core/tape_internal.h"

void lh_tape_inspect(lh_tape *t, lh_inspector *i)
{
    t->inspector = i;
}

static void inspect_outputs(lh_tape *t, const tape_node *n, lh_tape_seen *seen)
{
    for (int i = 0; i < n->n_out; i++) {
        const tape_value *v = &t->value[n->out + i];
        void *data = NULL;
        seen->shape = v->shape;
        seen->exact = v->exact;
        if (lhi_tape_data(t, n->out + i, &data) != LH_OK) continue;
        seen->data = data;
        t->inspector->see(t->inspector, seen);
    }
}

static void inspect_gradients(lh_tape *t, const tape_node *n, lh_tape_seen *seen)
{
    for (int i = 0; i < n->n_in; i++) {
        if (n->in[i] == 0 || !t->value[n->in[i]].needs_grad) continue;
        const tape_value *v = &t->value[t->value[n->in[i]].root];
        if (!v->has_grad) continue;
        seen->shape = v->shape;
        seen->data = v->grad;
        if (v->grad == NULL && lhi_tape_grad_read(t, v->own_grad, &seen->data) != LH_OK) continue;
        t->inspector->see(t->inspector, seen);
    }
}

void lhi_tape_inspect(lh_tape *t, const tape_node *n, lh_direction direction)
{
    int64_t k = n - t->node;
    lh_tape_seen seen = {.op = n->op->name, .direction = direction, .part = n->part, .order = k};
    if (t->memory == NULL || lh_memory_counting(t->memory)) return;
    if (direction == LH_DIRECTION_FORWARD) inspect_outputs(t, n, &seen);
    seen.order = 2 * t->n_nodes - k;
    if (direction == LH_DIRECTION_BACKWARD) inspect_gradients(t, n, &seen);
}
