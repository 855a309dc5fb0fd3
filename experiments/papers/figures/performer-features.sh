#!/usr/bin/env bash
# Performer's figure 4: error of attention's output against the number of features, trigonometric or positive, rows of the projection
# independent or orthogonal; n 4,096, heads of 16, 40 draws of inputs and projections (the paper: 15). Errors, not times: the same
# on every machine to rounding. A minute.
#
# The paper has the curves alone, no numbers. What it says: orthogonal below independent, positive below trigonometric. How its inputs
# are normalised is not said beyond "appropriately": here entries of queries and keys are 0.6 N(0, 1), and N(0, 1).
. "$(dirname "${BASH_SOURCE[0]}")/figure.sh"
figure_begin performer-features
draws=40
size=(--n 4096 --features 16,32,64,128,256)
if [ -n "$quick" ]; then draws=15 size=(--n 128 --features 16,32); fi
for scale in 0.6 1; do figure_run 1 bench features "${size[@]}" --head-dim 16 --draws $draws --kernel-draws 1 --scale $scale; done

figure_table '
get("arm") != "" {
    arm = get("arm"); m = get("features"); scale = json(get("scale")) # 0.6, also where the program prints 17 digits
    if (!((scale, m) in known)) { known[scale, m] = 1; order[++count] = m; of[count] = scale }
    mse[scale, m, arm] = get("mse_median"); mean[scale, m, arm] = get("mse"); sd[scale, m, arm] = get("mse_sd"); variance[scale] = get("output_variance"); draws = get("draws")
}
function word(below, above) { return below + 0 < above + 0 ? "yes" : "no" }
END {
    n = split("trig iid,trig orthogonal,positive iid,positive orthogonal,hyperbolic orthogonal,regularised orthogonal", arms, ",")
    printf "| inputs | features |" >table
    for (a = 1; a <= n; a++) printf " %s |", arms[a] >table
    printf " orthogonal < iid: trig, positive | positive < trig: iid, orthogonal |\n|---|---|---|---|---|---|---|---|---|---|\n" >table
    for (i = 1; i <= count; i++) {
        m = order[i]; s = of[i]
        printf "| %s | %d |", s, m >table
        for (a = 1; a <= n; a++) {
            printf " %.2g |", mse[s, m, arms[a]] >table
            printf "{\"figure\":\"performer-features\",\"scale\":%s,\"features\":%d,\"arm\":\"%s\",\"mse\":%s,\"mse_sd\":%s,\"mse_median\":%s,\"output_variance\":%s}\n", \
                s, m, arms[a], json(mean[s, m, arms[a]]), json(sd[s, m, arms[a]]), json(mse[s, m, arms[a]]), json(variance[s]) >lines
        }
        printf " %s, %s | %s, %s |\n", word(mse[s, m, arms[2]], mse[s, m, arms[1]]), word(mse[s, m, arms[4]], mse[s, m, arms[3]]), \
            word(mse[s, m, arms[3]], mse[s, m, arms[1]]), word(mse[s, m, arms[4]], mse[s, m, arms[2]]) >table
    }
    for (a = 1; a <= n; a++) # lines of one arm together
        for (i = 1; i <= count; i++) print of[i], a, order[i], mse[of[i], order[i], arms[a]], variance[of[i]] >data
    printf "\nMedians of %d draws. Variance of the exact output: %.2g (inputs 0.6), %.2g (1).\n", draws, variance["0.6"], variance["1"] >table
}'
figure_end
