# The page of longhaul report in a real browser (headless Chromium): no message on its console, well-formed also as XML,
# every plot and picture has an extent, nothing is wider than the window, light and dark. Skipped without Chromium or gnuplot.
. "$LH_SOURCE/tests/cli/lib.sh"

browser=
for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null && browser=$name && break
done
if [ -z "$browser" ] || ! command -v gnuplot >/dev/null; then
    echo "skipped: Chromium or gnuplot is not installed"
    exit 77
fi

write_text text.txt 6000
write_experiment tiny.yaml text.txt
train 2 one --set schedule.steps=30 --set train.eval_every=10
train 1 two --set schedule.steps=30 --set train.eval_every=10 --set 'model.attention={mechanism: performer, features: 32}'
train 1 lag --set data.task=lag --set data.path= --set data.lag=4 --set data.length=48
expect 0 2 scale tiny.yaml --ranks 1,2 --lengths 32,64 --repeats 2 --warmup 1
mv out scale.jsonl
mkdir sweep
for seed in 1 2 3 4; do cp -r runs/one sweep/000$seed; done
echo '{"sweep": 1, "points": [' >sweep/sweep.json
for seed in 1 2 3 4; do
    echo "{\"point\": $seed, \"dir\": \"000$seed\", \"values\": {\"optimizer.lr\": $((seed % 2 + 1))}, \"seed\": $seed}$([ $seed = 4 ] || echo ,)"
done >>sweep/sweep.json
echo ']}' >>sweep/sweep.json
expect 0 0 report runs/one runs/two runs/lag sweep scale.jsonl --out page.html

# browse OPTIONS... PAGE: what the browser makes of it in `dom`, what it has to say in `console`
browse() {
    timeout 60 "$browser" --headless --no-sandbox --disable-gpu --user-data-dir="$PWD/profile" --enable-logging=stderr \
        --virtual-time-budget=5000 --dump-dom "${@:1:$#-1}" "file://$PWD/${*: -1}" >dom 2>console
    same "exit code of $browser" $? 0
    same "messages on the console of ${*: -1}" "$(grep CONSOLE console)" ''
}

browse page.html
says dom '<section id="scaling">'

# as XML, which forgives nothing
sed -e '1d' -e 's/<html /<html xmlns="http:\/\/www.w3.org\/1999\/xhtml" /' page.html >page.xhtml
browse page.xhtml
says_not dom parsererror
says dom '<section id="environment">'

# A copy that is allowed to measure itself: each plot's series must have an extent within the picture, each image a size.
cat >measure <<'EOF'
<script>
addEventListener("load", () => {
    const wrong = [];
    const figures = document.querySelectorAll("figure.plot");
    for (const f of figures) {
        const series = f.querySelectorAll("svg .series");
        const svg = f.querySelector("svg").getBoundingClientRect();
        if (series.length === 0 || svg.width < 100) wrong.push(f.id + ": no series");
        for (const s of series) {
            const b = s.getBoundingClientRect();
            if (b.width + b.height <= 0 || b.right > svg.right + 2 || b.left < svg.left - 2) wrong.push(f.id + ": no extent");
            const mark = s.querySelector("path, polygon, use, rect");
            if (!mark) wrong.push(f.id + ": no mark");
        }
        const drawn = f.querySelector("svg .series path[stroke], svg .series g, svg .series use");
        const colour = drawn && getComputedStyle(drawn);
        if (!colour || (colour.stroke + colour.fill).includes("var(")) wrong.push(f.id + ": no colour");
    }
    for (const i of document.images) if (i.naturalWidth === 0) wrong.push("image");
    const wide = document.documentElement.scrollWidth - innerWidth;
    document.title = "figures " + figures.length + " images " + document.images.length + " wrong [" + wrong.join(", ") + "] too wide " +
        Math.max(0, wide) + " ground " + getComputedStyle(document.body).backgroundColor;
});
</script>
EOF
sed -e '/Content-Security-Policy/d' -e '/<\/main>/r measure' page.html >measured.html
for window in 1400,1000 500,900; do
    for scheme in 1 0; do # light, dark
        browse --window-size=$window --blink-settings=preferredColorScheme=$scheme measured.html
        title=$(sed -nE 's/.*<title>(figures .*)<\/title>.*/\1/p' dom)
        same "plots at $window, scheme $scheme" "$(echo "$title" | sed -E 's/figures [0-9]+ images [0-9]+ (.*) ground.*/\1/')" 'wrong [] too wide 0'
        holds "figures" "$(echo "$title" | sed -nE 's/figures ([0-9]+).*/\1/p') > 10"
        holds "images" "$(echo "$title" | sed -nE 's/.*images ([0-9]+).*/\1/p') > 1"
        echo "$title" | sed 's/.* ground //' >ground.$scheme
    done
    if cmp -s ground.0 ground.1; then fail "light and dark have the same ground: $(cat ground.0)"; else pass; fi
done
rm -rf profile
finish
