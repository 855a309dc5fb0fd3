#include "parallel/comm_internal.h"

static void mesh_free(lh_mesh *m)
{
    if (m == NULL) return;
    lh_free(&m->world);
    for (int a = 0; a < LH_AXES; a++) lh_free(&m->axis[a]);
    lh_free(&m->group);
    lh_free(&m->ring);
    lh_free(&m->traffic);
    lh_free(&m);
}

static lh_status mesh_new(bool counting, lh_mesh **out)
{
    lh_status st = LH_OK;
    lh_mesh *m = NULL;
    *out = NULL;
    LH_TRY(lh_new(sizeof *m, &m));
    m->counting = counting;
    m->ways = 1;
    LH_TRY(lh_new(sizeof *m->traffic, &m->traffic));
    LH_TRY(lh_new(sizeof *m->world, &m->world));
    for (int a = 0; a < LH_AXES; a++) LH_TRY(lh_new(sizeof *m->axis[a], &m->axis[a]));
    *out = m;
    m = NULL;
done:
    mesh_free(m);
    return st;
}

/* Ranks of one sequence are neighbours in the world: the sequence axis talks most. */
static void mesh_place(lh_mesh *m, int data, int seq, int rank)
{
    m->size[LH_AXIS_DATA] = data;
    m->size[LH_AXIS_SEQ] = seq;
    m->coord[LH_AXIS_DATA] = rank / seq;
    m->coord[LH_AXIS_SEQ] = rank % seq;
}

static lh_status mesh_check(int data, bool same, const lh_comm *start)
{
    if (!same) return LH_RAISE(LH_ERR_USAGE, "the ranks disagree on mesh.data (%d here)", data);
    if (data >= 1 && start->size % data == 0) return LH_OK;
    return LH_RAISE(LH_ERR_USAGE,
                    "mesh.data is %d but the job has %d ranks: it must divide their number", data,
                    start->size);
}

lh_status lh_mesh_create(int data, lh_mesh **out)
{
    lh_comm start;
    lhi_comm_start(&start);
    return lh_mesh_create_of(&start, data, out);
}

lh_status lh_mesh_create_of(lh_comm *comm, int data, lh_mesh **out)
{
    lh_mesh *m = NULL;
    *out = NULL;
    int64_t both[2] = {data, -(int64_t)data}; /* equal on all ranks: largest = smallest */
    lh_max_i64(comm, both, 2, LH_SEND_OTHER);
    lh_status st = mesh_check(data, both[0] == -both[1], comm);
    if (st == LH_OK) st = mesh_new(false, &m);
    st = lh_agree(comm, st);
    if (st != LH_OK || m == NULL) {
        mesh_free(m);
        return st;
    }
    mesh_place(m, data, comm->size / data, comm->rank);
    MPI_Comm handle = MPI_COMM_NULL;
    LH_MPI(comm, MPI_Comm_dup(comm->mpi, &handle));
    lhi_comm_own(m->world, handle, m->traffic);
    for (int a = 0; a < LH_AXES; a++) {
        /* an axis joins the ranks whose other coordinate is the same */
        LH_MPI(m->world,
               MPI_Comm_split(m->world->mpi, m->coord[LH_AXES - 1 - a], m->coord[a], &handle));
        lhi_comm_own(m->axis[a], handle, m->traffic);
    }
    *out = m;
    return LH_OK;
}

lh_status lh_mesh_create_self(lh_mesh **out)
{
    lh_mesh *m = NULL;
    *out = NULL;
    lh_status st = mesh_new(false, &m);
    if (st != LH_OK) return st;
    mesh_place(m, 1, 1, 0);
    lh_comm *comms[1 + LH_AXES] = {m->world, m->axis[LH_AXIS_DATA], m->axis[LH_AXIS_SEQ]};
    for (int i = 0; i < 1 + LH_AXES; i++) {
        MPI_Comm handle = MPI_COMM_NULL;
        LH_MPI(NULL, MPI_Comm_dup(MPI_COMM_SELF, &handle));
        lhi_comm_own(comms[i], handle, m->traffic);
    }
    *out = m;
    return LH_OK;
}

static void mesh_count(const lh_mesh *m, lh_comm *c, int rank, int size, int world_rank)
{
    *c = (lh_comm){.mpi = MPI_COMM_NULL,
                   .rank = rank,
                   .size = size,
                   .world_rank = world_rank,
                   .counting = true};
    c->traffic = m->traffic;
}

lh_status lh_mesh_create_counting(int data, int seq, int rank, lh_mesh **out)
{
    lh_status st = LH_OK;
    lh_mesh *m = NULL;
    *out = NULL;
    LH_CHECK(data >= 1 && seq >= 1 && rank >= 0 && rank / seq < data, LH_ERR_BUG,
             "counting mesh of %d x %d seen from rank %d", data, seq, rank);
    LH_TRY(mesh_new(true, &m));
    mesh_place(m, data, seq, rank);
    mesh_count(m, m->world, rank, data * seq, rank);
    for (int a = 0; a < LH_AXES; a++) mesh_count(m, m->axis[a], m->coord[a], m->size[a], rank);
    *out = m;
done:
    return st;
}

/* What may fail on one rank alone. */
static lh_status mesh_split_new(lh_mesh *m, int ways)
{
    lh_status st = LH_OK;
    LH_CHECK(ways >= 1 && m->size[LH_AXIS_SEQ] % ways == 0, LH_ERR_USAGE,
             "mesh.ulysses is %d but there are %d ranks along the sequence: it must divide their "
             "number",
             ways, m->size[LH_AXIS_SEQ]);
    LH_CHECK(m->group == NULL && m->ring == NULL, LH_ERR_BUG, "this mesh is split already");
    LH_TRY(lh_new(sizeof *m->group, &m->group));
    LH_TRY(lh_new(sizeof *m->ring, &m->ring));
done:
    return st;
}

lh_status lh_mesh_split(lh_mesh *m, int ways)
{
    if (ways == 1) return LH_OK;
    lh_comm *axis = m->axis[LH_AXIS_SEQ];
    int at = m->coord[LH_AXIS_SEQ];
    lh_status st = mesh_split_new(m, ways);
    if (!m->counting) st = lh_agree(m->world, st);
    if (st != LH_OK || m->group == NULL || m->ring == NULL) {
        lh_free(&m->group);
        lh_free(&m->ring);
        return st;
    }
    m->ways = ways;
    if (m->counting) {
        mesh_count(m, m->group, at % ways, ways, axis->world_rank);
        mesh_count(m, m->ring, at / ways, m->size[LH_AXIS_SEQ] / ways, axis->world_rank);
        return LH_OK;
    }
    MPI_Comm handle = MPI_COMM_NULL;
    LH_MPI(axis, MPI_Comm_split(axis->mpi, at / ways, at % ways, &handle));
    lhi_comm_own(m->group, handle, m->traffic);
    LH_MPI(axis, MPI_Comm_split(axis->mpi, at % ways, at / ways, &handle));
    lhi_comm_own(m->ring, handle, m->traffic);
    return LH_OK;
}

void lh_mesh_destroy(lh_mesh **mesh)
{
    lh_mesh *m = *mesh;
    *mesh = NULL;
    if (m == NULL) return;
    lh_comm_destroy(&m->ring);
    lh_comm_destroy(&m->group);
    for (int a = LH_AXES - 1; a >= 0; a--) lh_comm_destroy(&m->axis[a]);
    lh_comm_destroy(&m->world);
    mesh_free(m);
}
