-- How many objects of each class, in how many videos, how sure?
SELECT category, count(*) AS objects, count(DISTINCT video_id) AS videos, sum(n_obs) AS masks,
       round(avg(score), 3) AS mean_score
FROM tracks GROUP BY category ORDER BY objects DESC, category
