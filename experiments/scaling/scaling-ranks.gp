# Columns: number of the study, weak?, ranks, MiB sent by a rank, MiB of memory of a rank.
of(a, m, x) = int(column(1)) == a && int(column(2)) == m ? x : NaN
names = '"full" "full, by heads" "full, causal" "full, causal, zigzag" "window 256" "window 256, first global" "performer 256" "performer 256, causal" "linformer 256"'
set terminal svg size 900,380
set linetype 8 linecolor rgb '#6b8e23' linewidth 2 pointtype 7 pointsize 0.5
set linetype 9 linecolor rgb '#c75d9b' linewidth 2 pointtype 7 pointsize 0.5
set multiplot
set logscale xy
set yrange [*:*] noextend
set xtics (1, 2, 4, 8)
set xlabel 'ranks'
set tmargin 3
set bmargin 4
set title 'Strong (lines) and weak (dashes)'
set nokey
set lmargin at screen 0.08
set rmargin at screen 0.39
set ylabel 'MiB sent by a rank in a step'
set ytics (1, 2, 5, 10, 20)
plot for [a=1:9] data using (of(a, 0, $3)):($4 > 0 ? $4 : NaN) with linespoints linetype a, \
     for [a=1:9] data using (of(a, 1, $3)):($4 > 0 ? $4 : NaN) with lines linetype a dashtype 2
set lmargin at screen 0.46
set rmargin at screen 0.72
set ylabel 'MiB of step memory of a rank'
set ytics (5, 7, 10, 15, 20, 30)
set key outside right center
plot for [a=1:9] data using (of(a, 0, $3)):5 with linespoints linetype a title word(names, a), \
     for [a=1:9] data using (of(a, 1, $3)):5 with lines linetype a dashtype 2 notitle
