"""Logs as the field publishes them, a few lines of each made here: they are read unedited, or with one option.

Names and forms follow the public files; the values are made up.
"""

import gzip

import pytest

from model.logs.columns import LogShape
from model.logs.readers import read_log

SECOND = 1_700_000_000
U, V, W = "AG7EF0SVBQOUX", "A2NJO6YE954DBH", "1b2c_U-x"  # ids as Amazon and Yelp have them
SHAPES = {
    "MovieLens ratings.csv": (
        "ratings.csv",
        "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n1,1029,3.0,1260759179\n",
    ),
    "MovieLens 100K u.data": ("u.data", "196\t242\t3\t881250949\n186\t302\t3\t891717742\n"),
    "MovieLens 1M ratings.dat": ("ratings.dat", "1::1193::5::978300760\n1::661::3::978302109\n"),
    "Amazon reviews 2014, JSON": (
        "reviews.json.gz",
        f'{{"reviewerID": "{U}", "asin": "0000013714", "helpful": [0, 0], "reviewText": "a \\"b\\"", "overall": 5.0, '
        f'"unixReviewTime": {SECOND}, "reviewTime": "12 3, 2013"}}\n' * 2,
    ),
    "Amazon ratings 2014, csv": (
        "ratings_Beauty.csv",
        f"{U},0205616461,5.0,1369699200\n{V},0558925278,3.0,1355443200\n",
    ),
    "Amazon reviews 2023, JSONL": (
        "All_Beauty.jsonl",
        '{"rating": 5.0, "title": "x", "images": [], "asin": "B00YQ6X8E1", "parent_asin": "B00YQ6X8EO", '
        f'"user_id": "{U}", "timestamp": 1588687728923, "helpful_vote": 0, "verified_purchase": true}}\n',
    ),
    "Amazon 5-core 2023, csv": (
        "beauty.csv.gz",
        f"user_id,parent_asin,rating,timestamp\n{U},B00YQ6X8EO,5.0,1588687728923\n",
    ),
    "Amazon customer reviews, tsv": (
        "amazon_reviews_us.tsv",
        "marketplace\tcustomer_id\treview_id\tproduct_id\tstar_rating\treview_body\treview_date\n"
        'US\t18778586\tRDIJS7QYB6XNR\tB00EDBY7X8\t5\t5" wide, "nice\t2015-08-31\n',
        {"columns": {"time": "review_date"}},
    ),
    "Yelp review.json": (
        "yelp_academic_dataset_review.json",
        f'{{"review_id": "r", "user_id": "{W}", "business_id": "XQfwVwDr-v0ZS3_Cb", "stars": 4.0, "useful": 0, '
        '"text": "good\\n\\nfood", "date": "2018-07-07 22:09:11"}\n',
    ),
    "RecBole .inter": (
        "ml-100k.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n186\t302\t3\t891717742\n",
    ),
    "KuaiRand log_standard": (
        "log_standard_4_08_to_4_21_pure.csv",
        "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
        "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
        "0,3554,20220408,900,1649379904153,1,0,0,0,0,0,1,15333,14400,0,0,0,0,1\n",
    ),
    "KuaiRec big_matrix": (
        "big_matrix.csv",
        "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
        "0,3649,13838,10867,2020-07-05 00:08:23.438,20200705,1593878903.438,1.2733965215790926\n",
    ),
    "Gorse feedback csv": (
        "feedback.csv",
        "feedback_type,user_id,item_id,time_stamp\nstar,1032,redis:redis,2021-03-17T08:00:00Z\n",
    ),
    "SASRec pairs": ("ml-1m.txt", "1 1\n1 2\n2 1\n"),
    "Criteo-like attribution tsv": (
        "criteo_attribution.tsv",
        "timestamp\tuid\tcampaign\tconversion\tclick\tcost\n0\t20073966\t22589171\t0\t0\t1.0e-05\n2\t24607497\t884761\t0\t0\t2\n",
        {"columns": {"item": "campaign"}},
    ),
    "Retailrocket events.csv": (
        "events.csv",
        "timestamp,visitorid,event,itemid,transactionid\n1433221332117,257597,view,355908,\n",
    ),
    "Taobao UserBehavior": (
        "UserBehavior.csv",
        "1,2268318,2520377,pv,1511544070\n1,2333346,2520771,pv,1511561733\n",
    ),
    "Yoochoose clicks": (
        "yoochoose-clicks.dat",
        "1,2014-04-07T10:51:09.277Z,214536502,0\n1,2014-04-07T10:54:09.868Z,214536500,0\n",
    ),
    "Foursquare check-ins": (
        "dataset_TSMC2014_NYC.txt",
        "470\t49bbd6c0f964a520f4531fe3\t4bf58dd8\tArts\t40.7\t-74.0\t-240\tTue Apr 03 18:00:09 +0000 2012\n",
    ),
    "Gowalla check-ins": (
        "loc-gowalla_totalCheckins.txt.gz",
        "0\t2010-10-19T23:55:27Z\t30.2359091167\t-97.7951395833\t22847\n",
    ),
    "H&M transactions": (
        "transactions_train.csv",
        "t_dat,customer_id,article_id,price,sales_channel_id\n2018-09-20,000058a12d5b43e67d,0663713001,0.0508,2\n",
    ),
    "Goodreads interactions": (
        "goodreads_interactions.json.gz",
        '{"user_id": "8842281e1d", "book_id": "2767052", "is_read": true, "rating": 5, '
        '"date_added": "Tue Nov 17 11:37:35 -0800 2009"}\n',
    ),
    "MicroLens pairs": ("MicroLens-50k_pairs.csv", "user,item,timestamp\n36121,9580,1583378629552\n"),
    "Tenrec": (
        "QB-video.csv",
        "user_id,item_id,click,follow,like,share,video_category,watching_times,gender,age\n0,1,1,0,0,0,0,2,0,3\n",
        {"in_order": True},
    ),
    "Last.fm listening": (
        "userid-timestamp-artid-artname-traid-traname.tsv",
        "user_000001\t2009-05-04T23:08:57Z\tf1b1cf71\tDeep Dish\t\tFlowerville\n",
    ),
    "Google Local reviews": (
        "review-Alaska.json",
        '{"user_id": "104450306977350000000", "name": "x", "time": 1566331951619, "rating": 5, "text": null, '
        '"gmap_id": "0x56c897b9ce6000df:0xd707560a4b3c3a2c"}\n',
    ),
    "Steam reviews, Excel": ("steam.csv", '"sep";"user_id";"product_id";"date"\n"1";"7656";"730";"2017-12-17"\n'),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_public_log_is_read(write, name):
    path, options = write_shape(write, name, SHAPES[name][1])
    log, report = read_log([path], None, LogShape(**options))
    assert report.rows_bad == 0, report.first_bad
    assert len(log) == report.rows_read > 0


def test_25_of_them_need_one_column_named_at_most():
    options = [shape[2] if len(shape) > 2 else {} for shape in SHAPES.values()]
    assert sum(not option or len(option.get("columns", ())) == 1 for option in options) >= 25


@pytest.mark.parametrize("name", SHAPES)
def test_a_public_log_is_prepared_by_the_command(run_recall, write, tmp_path, name):
    path, options = write_shape(write, name, SHAPES[name][1])
    log, _ = read_log([path], None, LogShape(**options))
    path, _ = write_shape(write, name, with_more_items(SHAPES[name][1], str(log.items[-1])))
    words = [f"--column={ours}={theirs}" for ours, theirs in options.get("columns", {}).items()]
    words += ["--in-order"] if options.get("in_order") else []
    ended = run_recall("prepare", "--input", path, "--output", tmp_path / "data", *words)
    assert ended.status == 0, ended.err
    assert ended.last_line["test"] == 1


def write_shape(write, name, text):
    """A file of the shape that holds the text, and what has to be told of it."""
    file, _, *options = SHAPES[name]
    return write(gzip.compress(text.encode()) if file.endswith(".gz") else text, file), dict(*options)


def with_more_items(text, item):
    """The log with its last line repeated for more items: a history that is long enough to be divided."""
    last = text.splitlines()[-1]
    return text + "".join(last.replace(item, f"{item}{n}", 1) + "\n" for n in range(4))


@pytest.mark.parametrize(
    ("name", "event"),
    [
        ("MovieLens 100K u.data", (196, 242, 881250949)),
        ("MovieLens 1M ratings.dat", (1, 1193, 978300760)),
        ("Amazon reviews 2014, JSON", (U, "0000013714", SECOND)),
        ("Amazon ratings 2014, csv", (U, "0205616461", 1369699200)),
        ("Yelp review.json", (W, "XQfwVwDr-v0ZS3_Cb", 1531001351000)),
        ("RecBole .inter", (196, 242, 881250949)),
        ("KuaiRand log_standard", (0, 3554, 1649379904153)),
        ("KuaiRec big_matrix", (0, 3649, 1593907703438)),
        ("Gorse feedback csv", (1032, "redis:redis", 1615968000000)),
        ("SASRec pairs", (1, 1, 0)),
        ("Criteo-like attribution tsv", (20073966, 22589171, 0)),
        ("Yoochoose clicks", (1, 214536502, 1396867869277)),
        ("Foursquare check-ins", (470, "49bbd6c0f964a520f4531fe3", 1333476009000)),
        ("Gowalla check-ins", (0, 22847, 1287532527000)),
        ("H&M transactions", ("000058a12d5b43e67d", "0663713001", 1537401600000)),
        ("Goodreads interactions", ("8842281e1d", 2767052, 1258486655000)),
        ("Google Local reviews", ("104450306977350000000", "0x56c897b9ce6000df:0xd707560a4b3c3a2c", 1566331951619)),
        ("Steam reviews, Excel", (7656, 730, 1513468800000)),
    ],
)
def test_a_public_log_says_the_same(write, name, event):
    path, options = write_shape(write, name, SHAPES[name][1])
    log, _ = read_log([path], None, LogShape(**options))
    assert log.frame.select("user", "item", "time").row(0) == event
